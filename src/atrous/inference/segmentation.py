"""The result of segmenting an image: labels with class names and colors, overlay, files."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from atrous.errors import AtrousError
from atrous.files import overlay_path
from atrous.imaging.draw import draw_overlay
from atrous.imaging.io import Pixels, encode_png, resize_image, save_image
from atrous.imaging.labels import class_fractions, save_labels
from atrous.imaging.probabilities import ClassProbabilities, save_probabilities
from atrous.marks import Mark, check_replaceable

MAX_OVERLAY_SIDE = 4096
"""The longer side of a saved overlay, at most."""

MAX_SHOWN_SIDE = 1024
"""The longer side of an image in a notebook, at most."""

SEGMENTATION = Mark("predict")
"""The mark in saved labels and overlays."""


@dataclass(frozen=True)
class Segmentation:
    """The segmentation of an image.

    `labels` (H, W) holds the index of each pixel's class, at the size of `image` (H, W, 3); `probabilities`
    (K, H, W), float32, is None unless requested.
    """

    image: Pixels
    labels: NDArray[np.integer]
    classes: tuple[str, ...]
    colors: tuple[tuple[int, int, int], ...]
    probabilities: NDArray[np.float32] | None = None

    def class_fractions(self) -> dict[str, float]:
        """Compute the fraction of the image that each class covers, for the classes that occur, the largest first."""
        return class_fractions(self.labels, self.classes)

    def overlay(self, *, opacity: float = 0.55, legend: bool = True) -> Pixels:
        """Paint the classes over the image, outlined, with a legend below it.

        Shape: -> (H + legend, W, 3) uint8.
        Raises: `AtrousError` for an opacity outside [0, 1].
        """
        return draw_overlay(self.image, self.labels, self.classes, self.colors, opacity=opacity, legend=legend)

    def save(
        self, path: str | os.PathLike[str], *, overwrite: bool = False, mark: Mark = SEGMENTATION
    ) -> tuple[Path, Path]:
        """Save the labels as a palette PNG at `path` (*.png) and the overlay next to it (`NAME_overlay.png`).

        The longer side of the saved overlay has at most 4,096 pixels; the labels keep the size of the image. Files of
        an earlier `save` are replaced, others only with `overwrite`; both are recognized by the `mark` in them.

        Returns: both paths.
        Raises: `AtrousError` if `path` does not end in .png, cannot be written, or is another file.
        """
        path = Path(path)
        if path.suffix.lower() != ".png":
            raise AtrousError(f"{path}: labels are saved as PNG, because JPEG would alter them; name it *.png.")
        overlay = overlay_path(path)
        check_replaceable((path, overlay), mark, overwrite=overwrite)
        save_labels(self.labels, self.colors, path, mark)
        save_image(self.shrink(MAX_OVERLAY_SIDE).overlay(), overlay, mark)
        return path, overlay

    def save_probabilities(
        self, path: str | os.PathLike[str], *, overwrite: bool = False, mark: Mark = SEGMENTATION
    ) -> Path:
        """Save the probabilities as 16-bit floats with the classes (*.npz), for `atrous crf` for example.

        They are those of `segmenter(image, probabilities=True)`. Only files of an earlier call are replaced, others
        with `overwrite`.

        Returns: the path.
        Raises: `AtrousError` without probabilities, or if `path` does not end in .npz, cannot be written, or is another
        file.
        """
        path = Path(path)
        if self.probabilities is None:
            raise AtrousError("This result has no probabilities: ask for them by segmenter(image, probabilities=True).")
        if path.suffix.lower() != ".npz":
            raise AtrousError(f"{path}: probabilities are saved as an archive of NumPy arrays; name it *.npz.")
        check_replaceable((path,), mark, overwrite=overwrite)
        save_probabilities(ClassProbabilities(self.probabilities, self.classes, self.colors), path, mark)
        return path

    def show(self) -> None:
        """Show the overlay: in the notebook that runs this, or else in the system's image viewer.

        Raises: `AtrousError` where there is no viewer, such as on a server.
        """
        from PIL import ImageShow  # which imports IPython where it is installed

        ipython = sys.modules.get("IPython")
        if ipython is not None and hasattr(ipython.get_ipython(), "kernel"):  # not the shell of a terminal
            ipython.display.display(self)
        elif not ImageShow.show(Image.fromarray(self.shrink(MAX_OVERLAY_SIDE).overlay()), "overlay"):
            raise AtrousError("There is no image viewer: save the overlay instead, with result.save('labels.png').")

    def _repr_png_(self) -> bytes:
        """Draw the overlay as a PNG, which notebooks show for a result."""
        return encode_png(self.shrink(MAX_SHOWN_SIDE).overlay())

    def shrink(self, max_side: int) -> Segmentation:
        """Shrink image and labels to sides of at most `max_side` pixels; smaller ones are returned as they are."""
        height, width = self.labels.shape
        scale = max_side / max(height, width)
        if scale >= 1:
            return self
        size = max(1, round(height * scale)), max(1, round(width * scale))
        nearest = [(np.arange(new) * old // new) for new, old in zip(size, (height, width), strict=True)]
        image = resize_image(self.image, *size)
        return replace(self, image=image, labels=np.asarray(self.labels[np.ix_(*nearest)]), probabilities=None)
