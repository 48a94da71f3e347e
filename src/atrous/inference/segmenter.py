"""The way from a picture to its segmentation: a network, and the card that says how it wants its pictures."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from atrous.data.images import ImageLike, Pixels, read_image, resize_image
from atrous.errors import AtrousError
from atrous.layers.resize import resize
from atrous.models import SegmentationModel
from atrous.weights import Card, load
from atrous.weights.card import Preprocessing


@dataclass(frozen=True)
class Segmentation:
    """What was found in an image.

    `labels` (H, W) holds the index of each pixel's class, at the size of `image` (H, W, 3); `probabilities`
    (K, H, W), float32, is there when it was asked for.
    """

    image: Pixels
    labels: NDArray[np.integer]
    classes: tuple[str, ...]
    colours: tuple[tuple[int, int, int], ...]
    probabilities: NDArray[np.float32] | None = None

    def shares(self) -> dict[str, float]:
        """The classes that occur and their shares of the image, the largest first."""
        counts = np.bincount(self.labels.reshape(-1), minlength=len(self.classes))
        order = np.argsort(-counts, kind="stable")
        return {self.classes[index]: float(counts[index] / self.labels.size) for index in order if counts[index]}

    def overlay(self, *, opacity: float = 0.55, legend: bool = True) -> Pixels:
        """The image with the classes painted over it, outlined, and named in a line below it."""
        from atrous.inference.draw import draw_overlay

        return draw_overlay(self, opacity=opacity, legend=legend)

    def save(self, path: str | os.PathLike[str]) -> tuple[Path, Path]:
        """Write the labels as a palette PNG to `path` (.png), and the overlay beside it (`NAME_overlay.png`).

        Returns: both paths.
        Raises: `AtrousError` for a name that is no PNG's, or a place that cannot be written.
        """
        from atrous.data.images import save_picture
        from atrous.data.labels import save_labels

        path = Path(path)
        if path.suffix.lower() != ".png":
            raise AtrousError(f"{path}: labels are saved as PNG, for other formats would blur them; name it *.png.")
        overlay = path.with_name(f"{path.stem}_overlay.png")
        save_labels(self.labels, self.colours, path)
        save_picture(self.overlay(), overlay)
        return path, overlay


class Segmenter:
    """A network and its card (by default `model.card`): `segmenter(image)` for a picture of any kind.

    Shape: see `read_image` for what a picture may be.
    """

    def __init__(
        self, model: SegmentationModel, card: Card | None = None, *, device: str | torch.device = "auto"
    ) -> None:
        card = card or model.card
        if card is None:
            raise AtrousError("This model has no card, so its classes and preprocessing are unknown: give one.")
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
        self.device = torch.device(device)
        self.model = model.eval().to(self.device)
        self.card = card

    @classmethod
    def load(cls, weights: str | os.PathLike[str], *, device: str | torch.device = "auto") -> Segmenter:
        """From an id, a safetensors file, or a file that an importer reads; see `atrous.load`."""
        return cls(load(weights), device=device)

    def __call__(self, image: ImageLike, *, probabilities: bool = False) -> Segmentation:
        """Segment one picture; `probabilities` keeps the soft-max of the classes as well.

        Raises: `AtrousError` for a picture that cannot be read.
        """
        pixels = read_image(image)
        logits = self.logits(pixels)
        labels = logits.argmax(0).to(torch.uint8 if logits.shape[0] <= 256 else torch.int16).numpy(force=True)
        kept = logits.softmax(0).float().numpy(force=True) if probabilities else None
        return Segmentation(pixels, labels, self.card.classes, self.card.colours, kept)

    @torch.inference_mode()
    def logits(self, pixels: Pixels) -> Tensor:
        """Class logits at the size of the image.

        Shape: (H, W, 3) uint8 -> (K, H, W) float, on the segmenter's device.
        """
        height, width = pixels.shape[:2]
        prepared, content = prepare(pixels, self.card.preprocessing)
        logits = self.model(prepared[None].to(self.device))[..., : content[0], : content[1]]
        return resize(logits, (height, width), align_corners=self.card.align_corners)[0]


def prepare(pixels: Pixels, how: Preprocessing) -> tuple[Tensor, tuple[int, int]]:
    """The network's input, and the height and width of it that hold the image; the rest is padding.

    Shape: (H, W, 3) uint8 -> (3, h, w) float32.
    """
    pixels = _RESIZERS[how.resize](pixels, how.size or (0, 0))
    height, width = pixels.shape[:2]
    if how.channel_order == "BGR":
        pixels = pixels[..., ::-1]
    normalised = (pixels.astype(np.float32) - np.array(how.mean, np.float32)) / np.array(how.std, np.float32)
    tensor = torch.from_numpy(normalised).permute(2, 0, 1)
    if how.resize == "pad" and how.size is not None:
        tensor = torch.nn.functional.pad(tensor, (0, how.size[1] - width, 0, how.size[0] - height))  # zero is the mean
    return tensor.contiguous(), (height, width)


def _keep(pixels: Pixels, size: tuple[int, int]) -> Pixels:
    return pixels


def _squeeze(pixels: Pixels, size: tuple[int, int]) -> Pixels:
    return resize_image(pixels, *size)


def _fit(pixels: Pixels, size: tuple[int, int]) -> Pixels:
    scale = min(size[0] / pixels.shape[0], size[1] / pixels.shape[1])
    return pixels if scale >= 1 else _scaled(pixels, scale)


def _shorter_side(pixels: Pixels, size: tuple[int, int]) -> Pixels:
    return _scaled(pixels, min(size) / min(pixels.shape[:2]))


def _scaled(pixels: Pixels, scale: float) -> Pixels:
    return resize_image(pixels, *(max(1, round(side * scale)) for side in pixels.shape[:2]))


_RESIZERS: dict[str, Callable[[Pixels, tuple[int, int]], Pixels]] = {
    "keep": _keep,
    "squeeze": _squeeze,
    "pad": _fit,
    "shorter_side": _shorter_side,
}
