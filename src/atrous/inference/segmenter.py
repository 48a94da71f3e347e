"""`Segmenter`: images in, segmentations out; a network together with the card that describes its preprocessing."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterable, Iterator

import numpy as np
import torch
from torch import Tensor

from atrous.card import Card
from atrous.errors import AtrousError
from atrous.imaging.io import ImageLike, Pixels, read_image
from atrous.imaging.labels import label_dtype
from atrous.inference.memory import allocate_labels, bytes_per_pixel, free_memory, is_out_of_memory
from atrous.inference.prediction import CoarsePrediction
from atrous.inference.prefetch import prefetch
from atrous.inference.preprocess import preprocess, preprocessed_size
from atrous.inference.segmentation import Segmentation
from atrous.inference.tiling import TiledAxis, TiledPrediction
from atrous.inference.tta import TTAConfig, tta_preset
from atrous.inference.views import run_crops, run_views, run_views_fused
from atrous.models import SegmentationModel
from atrous.progress import OnProgress
from atrous.weights import load

log = logging.getLogger("atrous")

FALLBACK_TILE = 1024
"""The side of the windows for an image that does not fit into memory."""

MEMORY_FRACTION = 0.8
"""The fraction of the free memory that a forward pass may use."""

SMALL_IMAGE_PIXELS = 2**20
"""Up to this many pixels an image is assumed to fit into memory."""


class Segmenter:
    """Segment images of any kind and size with a network: `segmenter(image)` returns a `Segmentation`.

    `card` describes classes and preprocessing (by default `model.card`). `tta` selects test-time augmentation, by the
    name of a preset (`atrous.inference.tta.PRESETS`) or as a `TTAConfig`. With `tile`, images are segmented in tiles of
    this side in pixels: the card's resize is skipped, and neighboring tiles overlap by the fraction `overlap`. Without
    `tile` an image is segmented as a whole; if it would not fit into memory and the card does not resize, in tiles,
    with a warning in the log.

    Attributes: `on_progress`, if set, is called for each window of a tiled image with the numbers of finished and of
    all windows; `network_seconds` is the time spent in forward passes so far.
    Raises: `AtrousError` for a model without a card, an unknown preset, or an empty window.
    """

    def __init__(
        self,
        model: SegmentationModel,
        card: Card | None = None,
        *,
        device: str | torch.device = "auto",
        tta: str | TTAConfig = "none",
        tile: int | None = None,
        overlap: float = 0.25,
    ) -> None:
        card = card or model.card
        if card is None:
            raise AtrousError(
                "This model has no card, so its classes and preprocessing are unknown: pass a card to Segmenter."
            )
        model.card = model.card or card  # CRF-RNN computes by the std of the preprocessing
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
        self.device = torch.device(device)
        self.model = model.eval().to(self.device)
        self.card = card
        self.tta = tta_preset(tta)
        if tile is not None:
            TiledAxis.cover(tile, tile, overlap, align_corners=model.align_corners)  # checks tile and overlap
            if self.tta.crop is not None:
                raise AtrousError("This test-time augmentation crops its own windows: remove tile, or choose another.")
        self.tile = tile
        self.overlap = overlap
        self.on_progress: OnProgress | None = None
        self.network_seconds = 0.0
        self._bytes_per_pixel: dict[int, float] = {}  # by output stride

    @classmethod
    def load(
        cls,
        weights: str | os.PathLike[str],
        *,
        device: str | torch.device = "auto",
        tta: str | TTAConfig = "none",
        tile: int | None = None,
        overlap: float = 0.25,
    ) -> Segmenter:
        """Create a segmenter from weights: an id, a safetensors file, or a file that `atrous.load` can import."""
        return cls(load(weights), device=device, tta=tta, tile=tile, overlap=overlap)

    def __call__(self, image: ImageLike, *, probabilities: bool = False) -> Segmentation:
        """Segment an image: a path, PIL image, array or tensor; see `read_image` for their shapes.

        `probabilities=True` keeps the softmax over classes as well: labels and probabilities come from one pass.

        Raises: `AtrousError` for an image that cannot be read.
        """
        pixels = read_image(image)
        return self._to_segmentation(pixels, self.predict_coarse(pixels), probabilities)

    def segment_many(self, images: Iterable[ImageLike], *, batch: int = 1) -> Iterator[Segmentation]:
        """Segment images in order, reading the next ones while the network runs.

        Up to `batch` consecutive images whose network inputs have the same size share a forward pass. Images are never
        padded to the size of others, which would change their scores.

        Raises: `AtrousError` for an image that cannot be read, when its turn comes.
        """
        max_batch = 1 if self.tile is not None or self.tta.crop is not None else batch
        for group in self._batches(prefetch(map(read_image, images), depth=max(2, batch)), max_batch):
            predictions = [self.predict_coarse(group[0])] if len(group) == 1 else self._predict_batch(group)
            for pixels, prediction in zip(group, predictions, strict=True):
                yield self._to_segmentation(pixels, prediction, False)

    @torch.inference_mode()
    def probabilities(self, image: ImageLike) -> Tensor:
        """Compute the softmax over classes at the size of the image: a path, PIL image, array or tensor.

        It stays a tensor on the device; `segmenter(image, probabilities=True)` gives labels and a NumPy array.

        Shape: see `read_image` -> (K, H, W) float32.
        Raises: `AtrousError` for an image that cannot be read.
        """
        return self.predict_coarse(image).probabilities()

    @torch.inference_mode()
    def logits(self, image: ImageLike) -> Tensor:
        """Compute class logits at the size of the image: a path, PIL image, array or tensor.

        Where the softmaxes of several views or crops are averaged, these are logarithms of the averaged probabilities.

        Shape: see `read_image` -> (K, H, W) float.
        Raises: `AtrousError` for an image that cannot be read.
        """
        return self.predict_coarse(image).logits()

    @torch.inference_mode()
    def predict_coarse(self, image: ImageLike) -> CoarsePrediction | TiledPrediction:
        """Run the network on an image and keep its coarse scores, from which labels or probabilities are upsampled.

        Shape: see `read_image`.
        Raises: `AtrousError` for an image that cannot be read, or if memory runs out where windows cannot be used.
        """
        pixels = read_image(image)
        if self.tile is not None:
            return self._predict_tiled(pixels, self.tile)
        if self.tta.crop is not None:
            return self._predict_crops(pixels)
        if not self._fits_in_memory(pixels):
            return self._fall_back_to_tiles(pixels, "Not enough free memory for")
        try:
            return self._predict_batch([pixels])[0]
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
        return self._fall_back_to_tiles(pixels, "Memory ran out for")

    @torch.inference_mode()
    def _to_segmentation(
        self, pixels: Pixels, prediction: CoarsePrediction | TiledPrediction, probabilities: bool
    ) -> Segmentation:
        if probabilities:
            softmax = prediction.probabilities()
            labels = softmax.argmax(0).numpy(force=True).astype(label_dtype(softmax.shape[0], 0))
            return Segmentation(pixels, labels, self.card.classes, self.card.colors, softmax.numpy(force=True))
        out = allocate_labels((pixels.shape[0], pixels.shape[1]), len(self.card.classes))
        return Segmentation(pixels, prediction.labels(out), self.card.classes, self.card.colors)

    def _run_network(self, image: Tensor) -> Tensor:
        """Return low-resolution logits, or full-size logits if the model post-processes them.

        The time is added to `network_seconds`.

        Shape: (N, 3, H, W) -> (N, K, h, w).
        """
        start = time.perf_counter()
        scores = self.model.scores(image) if self.model.output_is_resized_scores else self.model(image)
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        self.network_seconds += time.perf_counter() - start
        return scores

    @torch.inference_mode()
    def _predict_batch(self, images: list[Pixels]) -> list[CoarsePrediction]:
        """Run the network on whole images whose inputs have the same size, in one batch."""
        inputs = [preprocess(pixels, self.card.preprocessing) for pixels in images]
        batch = torch.from_numpy(np.stack([planes for planes, _ in inputs])).to(self.device)
        views = run_views(self._run_network, batch, self.tta, align_corners=self.model.align_corners)
        softmax_first = len(views) > 1 and self.tta.merge == "mean_softmax"
        return [
            CoarsePrediction(
                tuple(view[index] for view in views),
                input_size=(batch.shape[-2], batch.shape[-1]),
                content_size=content_size,
                image_size=(pixels.shape[0], pixels.shape[1]),
                align_corners=self.model.align_corners,
                merge="mean_softmax" if softmax_first else "mean_logits",  # "max_logits" is a single view by now
            )
            for index, (pixels, (_, content_size)) in enumerate(zip(images, inputs, strict=True))
        ]

    def _predict_crops(self, pixels: Pixels) -> CoarsePrediction:
        size = pixels.shape[0], pixels.shape[1]
        views = run_crops(
            self._run_network,
            pixels,
            self.tta,
            self.card.preprocessing,
            align_corners=self.model.align_corners,
            device=self.device,
        )
        return CoarsePrediction(tuple(views), size, size, size, align_corners=False, merge="mean_probabilities")

    def _predict_tiled(self, pixels: Pixels, tile: int) -> TiledPrediction:
        align_corners = self.model.align_corners

        def network(windows: Tensor) -> Tensor:
            return run_views_fused(self._run_network, windows, self.tta, align_corners=align_corners)

        return TiledPrediction(
            network,
            pixels,
            self.card.preprocessing,
            align_corners,
            self.device,
            tile,
            self.overlap,
            batch=1 if self.device.type == "cpu" else 4,
            on_progress=self.on_progress,
        )

    def _fall_back_to_tiles(self, pixels: Pixels, reason: str) -> TiledPrediction:
        height, width = self._input_size(pixels)
        if self.card.preprocessing.resize != "keep":
            raise AtrousError(
                f"{reason} a network input of {width} x {height} pixels: free memory, or use another device."
            )
        log.warning(
            "%s an image of %d x %d pixels: segmenting it in windows of %d.", reason, width, height, FALLBACK_TILE
        )
        return self._predict_tiled(pixels, FALLBACK_TILE)

    def _fits_in_memory(self, pixels: Pixels) -> bool:
        height, width = self._input_size(pixels)
        if height * width <= SMALL_IMAGE_PIXELS:
            return True
        stride = self.model.output_stride
        if stride not in self._bytes_per_pixel:
            self._bytes_per_pixel[stride] = bytes_per_pixel(self.model, self.model.scores, self.device)
        area = height * width * max(self.tta.scales) ** 2
        return area * self._bytes_per_pixel[stride] <= MEMORY_FRACTION * free_memory(self.device)

    def _batches(self, images: Iterator[Pixels], max_batch: int) -> Iterator[list[Pixels]]:
        """Group up to `max_batch` consecutive images whose network inputs have the same size."""
        group: list[Pixels] = []
        for pixels in images:
            if group and (len(group) == max_batch or self._input_size(pixels) != self._input_size(group[0])):
                yield group
                group = []
            group.append(pixels)
        if group:
            yield group

    def _input_size(self, pixels: Pixels) -> tuple[int, int]:
        return preprocessed_size((pixels.shape[0], pixels.shape[1]), self.card.preprocessing)
