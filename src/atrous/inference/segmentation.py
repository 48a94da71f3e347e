"""The result of segmenting an image: labels with class names and colors, overlay, files."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from atrous.errors import AtrousError
from atrous.files import overlay_path, writing
from atrous.imaging.draw import draw_overlay
from atrous.imaging.io import Pixels, encode_png, resize_image
from atrous.imaging.labels import class_fractions
from atrous.inference.formats import FORMATS, get_format
from atrous.inference.formats.coco import coco_dataset
from atrous.inference.formats.format import PREDICTED, FormatOptions
from atrous.inference.formats.geojson import geojson_collection
from atrous.inference.formats.labelme import labelme_annotations
from atrous.inference.formats.raster import MAX_OVERLAY_SIDE
from atrous.marks import Mark, check_replaceable

MAX_SHOWN_SIDE = 1024
"""The longer side of an image in a notebook, at most."""


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

    def __repr__(self) -> str:
        """Summarize in one line: the size, and the largest classes with their fractions."""
        height, width = self.labels.shape
        fractions = self.class_fractions()
        listed = [f"{name} {fraction:.1%}" for name, fraction in list(fractions.items())[:5]]
        more = [f"{len(fractions) - 5} more"] * (len(fractions) > 5)
        with_probabilities = ", with probabilities" * (self.probabilities is not None)
        return f"<Segmentation of {width} x {height} pixels: {', '.join([*listed, *more])}{with_probabilities}>"

    def class_fractions(self) -> dict[str, float]:
        """Compute the fraction of the image that each class covers, for the classes that occur, the largest first."""
        return class_fractions(self.labels, self.classes)

    def overlay(self, *, opacity: float = 0.55, legend: bool = True) -> Pixels:
        """Paint the classes over the image, outlined, with a legend below it.

        Shape: -> (H + legend, W, 3) uint8.
        Raises: `AtrousError` for an opacity outside [0, 1].
        """
        return draw_overlay(self.image, self.labels, self.classes, self.colors, opacity=opacity, legend=legend)

    def encode(self, format: str, *, file_name: str = "image", mark: Mark = PREDICTED, **options: Any) -> bytes:
        """Encode the segmentation as the content of a file, in a format of `atrous.inference.formats.FORMATS`.

        `file_name` is the name of the image, which some formats refer to; `options` are those of `FormatOptions`.

        Raises: `AtrousError` for an unknown format, or one that needs probabilities where there are none.
        """
        return get_format(format).encode(self, file_name=file_name, mark=mark, **options)

    def to_coco(self, *, file_name: str = "image", **options: Any) -> dict[str, Any]:
        """Describe the segmentation as a COCO data set of one image, with run lengths or, by `polygons=True`, polygons.

        `options` are those of `FormatOptions`. See `atrous.inference.formats.coco.coco_dataset`.
        """
        return coco_dataset(self, file_name, FormatOptions(**options), PREDICTED)

    def to_geojson(self, *, file_name: str = "image", **options: Any) -> dict[str, Any]:
        """Describe the regions as a GeoJSON collection of polygons, in pixels from the upper left corner.

        `options` are those of `FormatOptions`, such as `simplify=1.0`.
        """
        return geojson_collection(self, file_name, FormatOptions(**options), PREDICTED)

    def to_labelme(self, *, file_name: str = "image", **options: Any) -> dict[str, Any]:
        """Describe the regions as annotations of labelme; `options` are those of `FormatOptions`."""
        return labelme_annotations(self, file_name, FormatOptions(**options))

    def save(
        self,
        path: str | os.PathLike[str],
        format: str | None = None,
        *,
        overwrite: bool = False,
        mark: Mark = PREDICTED,
        file_name: str | None = None,
        **options: Any,
    ) -> tuple[Path, ...]:
        """Save the labels as a palette PNG at `path` (*.png) and the overlay next to it, or one file in a `format`.

        Without `format`, the overlay is named `NAME_overlay.png`; its longer side has at most 4,096 pixels, and the
        labels keep the size of the image. With it, `path` is the only file; `options` are those of `FormatOptions`, and
        `file_name` is the name of the image, by default the stem of `path`. Files of an earlier `save` are replaced,
        others only with `overwrite`; both are recognized by the `mark` in them.

        Returns: the paths of the files.
        Raises: `AtrousError` if `path` has another suffix than the format, cannot be written, or is another file.
        """
        path = Path(path)
        formats = ("png", "overlay") if format is None else (get_format(format).name,)
        suffix = Path(f"name{FORMATS[formats[0]].suffix}").suffix
        if path.suffix.lower() != suffix:
            lossy = "labels are saved as PNG, because JPEG would alter them"
            reason = lossy if suffix == ".png" else f"files of the format {format} end in {suffix}"
            raise AtrousError(f"{path}: {reason}; name it *{suffix}.")
        paths = (path, overlay_path(path)) if format is None else (path,)
        check_replaceable(paths, mark, overwrite=overwrite)
        for name, target in zip(formats, paths, strict=True):
            content = self.encode(name, file_name=file_name or path.stem, mark=mark, **options)
            with writing(target) as temporary:
                temporary.write_bytes(content)
        return paths

    def save_probabilities(
        self, path: str | os.PathLike[str], *, overwrite: bool = False, mark: Mark = PREDICTED
    ) -> Path:
        """Save the probabilities as 16-bit floats with the classes (*.npz), for `atrous crf` for example.

        They are those of `segmenter(image, probabilities=True)`. Only files of an earlier call are replaced, others
        with `overwrite`.

        Returns: the path.
        Raises: `AtrousError` without probabilities, or if `path` does not end in .npz, cannot be written, or is another
        file.
        """
        return self.save(path, "npz", overwrite=overwrite, mark=mark)[0]

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
