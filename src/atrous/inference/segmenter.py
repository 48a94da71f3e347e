"""The way from a picture to its segmentation: a network, and the card that says how it wants its pictures."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from atrous.card import Card
from atrous.errors import AtrousError
from atrous.imaging.io import ImageLike, Pixels, read_image, resize_image
from atrous.imaging.labels import class_fractions, label_dtype
from atrous.inference.memory import SPARE, available, bytes_per_pixel, is_out_of_memory, label_array
from atrous.inference.prediction import CoarsePrediction
from atrous.inference.prefetch import ahead
from atrous.inference.preprocess import preprocess, preprocessed_size
from atrous.inference.tiling import Axis, Progress, TiledPrediction
from atrous.inference.tta import TestTime, look, run_crops, run_views_fused, test_time
from atrous.models import SegmentationModel
from atrous.weights import load

log = logging.getLogger("atrous")

FALLBACK_TILE = 1024
"""The side of the windows where an image does not fit as a whole."""

LARGEST_OVERLAY = 4096
"""The longer side of a saved overlay at most."""

SURELY_FITS = 2**20
"""Pixels of an image about which no memory is asked."""


@dataclass(frozen=True)
class Segmentation:
    """What was found in an image.

    `labels` (H, W) holds the index of each pixel's class, at the size of `image` (H, W, 3); `probabilities`
    (K, H, W), float32, is there when it was asked for.
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
        """
        from atrous.imaging.draw import draw_overlay

        return draw_overlay(self.image, self.labels, self.classes, self.colors, opacity=opacity, legend=legend)

    def save(self, path: str | os.PathLike[str]) -> tuple[Path, Path]:
        """Write the labels as a palette PNG to `path` (.png), and the overlay beside it (`NAME_overlay.png`).

        The overlay is to be looked at: its longer side has at most 4,096 pixels.

        Returns: both paths.
        Raises: `AtrousError` for a name that is no PNG's, or a place that cannot be written.
        """
        from atrous.imaging.io import save_image
        from atrous.imaging.labels import save_labels

        path = Path(path)
        if path.suffix.lower() != ".png":
            raise AtrousError(f"{path}: labels are saved as PNG, for other formats would blur them; name it *.png.")
        overlay = path.with_name(f"{path.stem}_overlay.png")
        save_labels(self.labels, self.colors, path)
        save_image(self._shrunk(LARGEST_OVERLAY).overlay(), overlay)
        return path, overlay

    def _shrunk(self, longest: int) -> Segmentation:
        """The same at a smaller size, if a side is longer."""
        height, width = self.labels.shape
        scale = longest / max(height, width)
        if scale >= 1:
            return self
        size = max(1, round(height * scale)), max(1, round(width * scale))
        nearest = [(np.arange(new) * old // new) for new, old in zip(size, (height, width), strict=True)]
        image = resize_image(self.image, *size)
        return replace(self, image=image, labels=np.asarray(self.labels[np.ix_(*nearest)]), probabilities=None)


class Segmenter:
    """A network and its card (by default `model.card`): `segmenter(image)` for a picture of any kind.

    `tta` is what is done at test time, by the name of a preset or in full, see `inference.multiscale`. `tile` is the
    side of the windows in which images are looked at, at their own scale instead of the card's; without it they are
    looked at whole, and in windows only where memory would not do otherwise, which is said in the log.

    Shape: see `read_image` for what a picture may be.
    Raises: `AtrousError` for a model without a card, an unknown preset, or an empty window.
    """

    def __init__(
        self,
        model: SegmentationModel,
        card: Card | None = None,
        *,
        device: str | torch.device = "auto",
        tta: str | TestTime = "none",
        tile: int | None = None,
        overlap: float = 0.25,
    ) -> None:
        card = card or model.card
        if card is None:
            raise AtrousError("This model has no card, so its classes and preprocessing are unknown: give one.")
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
        self.device = torch.device(device)
        self.model = model.eval().to(self.device)
        self.card = card
        self.tta = test_time(tta)
        if tile is not None:
            Axis.cover(tile, tile, overlap, align_corners=model.align_corners)  # says what is wrong with them, if it is
            if self.tta.crop is not None:
                raise AtrousError("This test-time preset cuts its own windows: give it without a tile, or the reverse.")
        self.tile = tile
        self.overlap = overlap
        self.progress: Progress | None = None
        """Called for each window of a tiled image with how many are done, and of how many."""
        self.network_seconds = 0.0
        """The time spent in forward passes so far."""
        self._needs: dict[int, float] = {}

    @classmethod
    def load(
        cls,
        weights: str | os.PathLike[str],
        *,
        device: str | torch.device = "auto",
        tta: str | TestTime = "none",
        tile: int | None = None,
        overlap: float = 0.25,
    ) -> Segmenter:
        """From an id, a safetensors file, or a file that an importer reads; see `atrous.load`."""
        return cls(load(weights), device=device, tta=tta, tile=tile, overlap=overlap)

    def __call__(self, image: ImageLike, *, probabilities: bool = False) -> Segmentation:
        """Segment one picture; `probabilities` keeps the soft-max of the classes as well.

        Raises: `AtrousError` for a picture that cannot be read.
        """
        pixels = read_image(image)
        return self._segmentation(pixels, self.evidence(pixels), probabilities)

    def many(self, images: Iterable[ImageLike], *, batch: int = 1) -> Iterator[Segmentation]:
        """Segment pictures in order, the next ones being read meanwhile.

        Up to `batch` consecutive ones go through the network together where their inputs have one size; others wait for
        nobody and are never padded to fit, for that would change what the network sees.

        Raises: `AtrousError` for a picture that cannot be read, when its turn comes.
        """
        alone = self.tile is not None or self.tta.crop is not None
        for group in self._groups(ahead(map(read_image, images), depth=max(2, batch)), 1 if alone else batch):
            found = [self.evidence(group[0])] if len(group) == 1 else self._together(group)
            for pixels, evidence in zip(group, found, strict=True):
                yield self._segmentation(pixels, evidence, False)

    @torch.inference_mode()
    def probabilities(self, pixels: Pixels) -> Tensor:
        """The soft-max over classes at the size of the image.

        Shape: (H, W, 3) uint8 -> (K, H, W) float32.
        """
        return self.evidence(pixels).probabilities()

    @torch.inference_mode()
    def logits(self, pixels: Pixels) -> Tensor:
        """Class logits at the size of the image; logarithms of probabilities where several looks were averaged.

        Shape: (H, W, 3) uint8 -> (K, H, W) float.
        """
        return self.evidence(pixels).logits()

    @torch.inference_mode()
    def evidence(self, pixels: Pixels) -> CoarsePrediction | TiledPrediction:
        """What the network says of a picture, before it is resized; labels and probabilities are made from it.

        Shape: (H, W, 3) uint8.
        Raises: `AtrousError` where memory runs out and windows are no way out.
        """
        if self.tile is not None:
            return self._tiled(pixels, self.tile)
        if self.tta.crop is not None:
            return self._in_crops(pixels)
        if not self._fits(pixels):
            return self._fall_back(pixels, "the free memory does not hold")
        try:
            return self._together([pixels])[0]
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
        return self._fall_back(pixels, "memory ran out for")

    @torch.inference_mode()
    def _segmentation(
        self, pixels: Pixels, evidence: CoarsePrediction | TiledPrediction, probabilities: bool
    ) -> Segmentation:
        if probabilities:
            soft = evidence.probabilities()
            labels = soft.argmax(0).numpy(force=True).astype(label_dtype(soft.shape[0], 0))
            return Segmentation(pixels, labels, self.card.classes, self.card.colors, soft.numpy(force=True))
        room = label_array((pixels.shape[0], pixels.shape[1]), len(self.card.classes))
        return Segmentation(pixels, evidence.labels(room), self.card.classes, self.card.colors)

    def _scores(self, image: Tensor) -> Tensor:
        """The network's scores, on the clock; its logits where it does more to them than to resize them."""
        start = time.perf_counter()
        scores = self.model.scores(image) if self.model.output_is_resized_scores else self.model(image)
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        self.network_seconds += time.perf_counter() - start
        return scores

    @torch.inference_mode()
    def _together(self, images: list[Pixels]) -> list[CoarsePrediction]:
        """Pictures whose inputs have one size, whole, in one pass."""
        prepared = [preprocess(pixels, self.card.preprocessing) for pixels in images]
        batch = torch.stack([tensor for tensor, _ in prepared]).to(self.device)
        views = look(self._scores, batch, self.tta, align_corners=self.model.align_corners)
        frame = batch.shape[-2], batch.shape[-1]
        averaged = len(views) > 1 and self.tta.merge == "probabilities"
        return [
            CoarsePrediction(
                tuple(view[index] for view in views),
                frame,
                content,
                (pixels.shape[0], pixels.shape[1]),
                align_corners=self.model.align_corners,
                kind="softmax" if averaged else "scores",
            )
            for index, (pixels, (_, content)) in enumerate(zip(images, prepared, strict=True))
        ]

    def _in_crops(self, pixels: Pixels) -> CoarsePrediction:
        size = pixels.shape[0], pixels.shape[1]
        corners, how = self.model.align_corners, self.card.preprocessing
        views = run_crops(self._scores, pixels, self.tta, how, align_corners=corners, device=self.device)
        return CoarsePrediction(tuple(views), size, size, size, align_corners=False, kind="probabilities")

    def _tiled(self, pixels: Pixels, tile: int) -> TiledPrediction:
        corners = self.model.align_corners

        def network(windows: Tensor) -> Tensor:
            return run_views_fused(self._scores, windows, self.tta, align_corners=corners)

        return TiledPrediction(
            network,
            pixels,
            self.card.preprocessing,
            corners,
            self.device,
            tile,
            self.overlap,
            batch=1 if self.device.type == "cpu" else 4,
            progress=self.progress,
        )

    def _fall_back(self, pixels: Pixels, why: str) -> TiledPrediction:
        height, width = self._input_size(pixels)
        if self.card.preprocessing.resize != "keep":
            raise AtrousError(f"{why} a network input of {width} x {height}: free some, or take another device.")
        log.warning("%s %d x %d pixels at once: it is segmented in windows of %d.", why, width, height, FALLBACK_TILE)
        return self._tiled(pixels, FALLBACK_TILE)

    def _fits(self, pixels: Pixels) -> bool:
        """Whether the whole image may be looked at, as far as can be told."""
        height, width = self._input_size(pixels)
        if height * width <= SURELY_FITS:
            return True
        stride = self.model.output_stride
        if stride not in self._needs:
            self._needs[stride] = bytes_per_pixel(self.model, self.model.scores, self.device)
        area = height * width * max(self.tta.scales) ** 2
        return area * self._needs[stride] <= SPARE * available(self.device)

    def _groups(self, images: Iterator[Pixels], batch: int) -> Iterator[list[Pixels]]:
        """Consecutive images that may go through the network together."""
        group: list[Pixels] = []
        for pixels in images:
            if group and (len(group) == batch or self._input_size(pixels) != self._input_size(group[0])):
                yield group
                group = []
            group.append(pixels)
        if group:
            yield group

    def _input_size(self, pixels: Pixels) -> tuple[int, int]:
        return preprocessed_size((pixels.shape[0], pixels.shape[1]), self.card.preprocessing)
