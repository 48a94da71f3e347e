"""`Segmenter`: images in, segmentations out; a network together with the card that describes its preprocessing."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from atrous.allocator import keep_freed_memory
from atrous.card import Card
from atrous.errors import AtrousError
from atrous.imaging.io import ImageLike, Pixels, read_image, resize_image
from atrous.imaging.labels import describe_classes, label_dtype
from atrous.imaging.pixel_limit import MAX_PIXELS
from atrous.inference.engines.create import EXPORTED, check_available, create_engine, resolve_device
from atrous.inference.engines.engine import Batch, Engine
from atrous.inference.memory import allocate_labels, free_memory, is_out_of_memory
from atrous.inference.prediction import CoarsePrediction
from atrous.inference.prefetch import group_consecutive, parallel_map, prefetch
from atrous.inference.preprocess import NetworkInput, preprocess, preprocessed_size, resized_size
from atrous.inference.runner import EngineRunner
from atrous.inference.segmentation import Segmentation
from atrous.inference.tta import TTAConfig, tta_preset
from atrous.inference.upsampled_argmax import Scores
from atrous.lazy import imported
from atrous.progress import OnProgress

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from atrous.inference.tiling import PixelSource, TiledPrediction
    from atrous.models import SegmentationModel

log = logging.getLogger("atrous")

FALLBACK_TILE = 1024
"""The side of the windows for an image that does not fit into memory."""


class Segmenter:
    """Segment images of any kind and size with a network: `segmenter(image)` returns a `Segmentation`.

    `Segmenter(model)` switches a model to evaluation mode and runs it as it is, so that changes of its weights take
    effect; where it is in training mode again, each call switches it for its duration. `Segmenter.load` runs weights by
    the fastest engine. `card` describes classes and preprocessing (by default `model.card`). `tta` selects test-time
    augmentation, by the name of a preset (`atrous.inference.tta.PRESETS`) or as a `TTAConfig`. With `tile`, images are
    segmented in tiles of this side in pixels: the card's resize is skipped, and neighboring tiles overlap by the
    fraction `overlap`. Without `tile` an image is segmented as a whole; if it would not fit into memory, in tiles
    at the scale of the card, with a warning in the log.

    It may be called from several threads.

    Attributes: `on_progress`, if set, is called for each window of a tiled image with the number of
    finished windows and that of all.
    Raises: `AtrousError` for a model without a card or with that of other classes, an unknown preset, an empty window.
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
        from atrous.inference.engines.torch import EagerEngine

        card = card or model.card
        if card is None:
            raise AtrousError(
                "This model has no card, so its classes and preprocessing are unknown: pass a card to Segmenter."
            )
        if model.num_classes != len(card.classes):
            raise AtrousError(
                f"The model has {model.num_classes} outputs, but the card names {len(card.classes)} classes "
                f"({describe_classes(card.classes)}): pass the card that the weights were trained with."
            )
        model.card = model.card or card  # CRF-RNN computes by the std of the preprocessing
        resolved = resolve_device(str(device))
        check_available(resolved)
        self._set_up(EagerEngine(model, card, resolved), card, tta, tile, overlap)
        self._model: SegmentationModel | None = model

    def _set_up(self, engine: Engine, card: Card, tta: str | TTAConfig, tile: int | None, overlap: float) -> None:
        keep_freed_memory()
        self._runner = EngineRunner(engine)
        self.card = card
        self.tta = tta_preset(tta)
        if tile is not None:
            from atrous.inference.tiling import TiledAxis

            TiledAxis.cover(tile, tile, overlap, align_corners=engine.align_corners)  # checks tile and overlap
            if self.tta.crop is not None:
                raise AtrousError("This test-time augmentation crops its own windows: remove tile, or choose another.")
        self.tile = tile
        self.overlap = overlap
        self.on_progress: OnProgress | None = None
        self._path: Path | None = None
        self._engine_options: dict[str, Any] = {}

    @classmethod
    def load(
        cls,
        weights: str | os.PathLike[str],
        *,
        engine: str = "auto",
        precision: str = "auto",
        output_stride: int | None = None,
        throughput: bool = False,
        defer_conversion: bool = False,
        device: str | torch.device = "auto",
        tta: str | TTAConfig = "none",
        tile: int | None = None,
        overlap: float = 0.25,
    ) -> Segmenter:
        """Create a segmenter from weights: an id, a safetensors file, an exported network (ONNX, OpenVINO), or a file
        that `atrous.load` can import.

        `engine` runs the network: "torch", "compile", "onnxruntime" or "openvino"; "auto" is torch on a GPU and ONNX
        Runtime on the CPU. `precision` is that of the convolutions: "float32", "bfloat16", or "int8" of a quantized
        network; "auto" is float32, or that of a quantized network. See `inference.engines.create`. `throughput` is for
        many images: on the CPU several are in the network at once, each with its share of the cores, which takes longer
        for one image, and less time for all. `defer_conversion` is for a single image: weights that are used for the
        first time run by torch, without waiting for their conversion, which takes place the next time.

        Raises: `AtrousError` for unknown weights, and for options that the engine or the network does not support.
        """
        from atrous.weights import find_weights

        path = find_weights(weights)
        options: dict[str, Any] = {
            "engine": engine,
            "precision": precision,
            "device": str(device),
            "throughput": throughput,
            "defer_conversion": defer_conversion,
        }
        created = create_engine(path, **options, output_stride=output_stride)
        segmenter = cls.from_engine(created, tta=tta, tile=tile, overlap=overlap)
        segmenter._path = path
        segmenter._engine_options = options
        return segmenter

    @classmethod
    def from_engine(
        cls, engine: Engine, *, tta: str | TTAConfig = "none", tile: int | None = None, overlap: float = 0.25
    ) -> Segmenter:
        """Create a segmenter that runs an engine, by the card in its metadata."""
        segmenter = cls.__new__(cls)
        segmenter._set_up(engine, engine.metadata.card, tta, tile, overlap)
        segmenter._model = None
        return segmenter

    def __repr__(self) -> str:
        """Summarize in one line: the network, its classes and the engine that runs it."""
        engine = f"{self.engine.name}, {self.engine.precision}, {self.engine.device}"
        return f"<Segmenter {self.card.model}: {len(self.card.classes)} classes; {engine}>"

    @property
    def model(self) -> SegmentationModel:
        """The network in PyTorch.

        If the segmenter was loaded from a file, this is a copy for inspection, loaded when first used: the engine does
        not see changes of its weights (`Segmenter(segmenter.model)` does), but follows `model.set_output_stride`.

        Raises: `AtrousError` for an exported network, which PyTorch does not run.
        """
        if self._model is None:
            from atrous.weights import load

            if self._path is None or self._path.suffix in EXPORTED:
                name = self._path or f"The engine '{self.engine.name}'"
                raise AtrousError(f"{name}: an exported network has no PyTorch model; load the original weights.")
            self._model = load(self._path, device=self.engine.device).set_output_stride(self.engine.output_stride)
        return self._model

    @property
    def engine(self) -> Engine:
        """The engine that computes the scores."""
        return self._runner.engine

    @property
    def device(self) -> torch.device:
        """The device that the network runs on."""
        import torch

        return torch.device(self.engine.device)

    @property
    def output_stride(self) -> int:
        """The output stride that the network runs at."""
        return self.engine.output_stride

    def set_output_stride(self, output_stride: int) -> Segmenter:
        """Run the network at another output stride; returns the segmenter itself.

        Raises: `AtrousError` for a stride at which the network cannot run; then nothing has changed.
        """
        if self._path is None:
            self.model.set_output_stride(output_stride)
        elif output_stride != self.engine.output_stride:
            self._runner.engine = create_engine(self._path, **self._engine_options, output_stride=output_stride)
            if self._model is not None:
                self._model.set_output_stride(output_stride)
        return self

    def __call__(self, image: ImageLike, *, probabilities: bool = False) -> Segmentation:
        """Segment an image: a path, bytes, open file, PIL image, array or tensor; see `read_image` for their shapes.

        `probabilities=True` keeps the softmax over classes as well: labels and probabilities come from one pass.

        Raises: `AtrousError` for an image that cannot be read.
        """
        pixels = read_image(image)
        return self.to_segmentation(pixels, self.predict_coarse(pixels), probabilities=probabilities)

    @property
    def network_seconds(self) -> float:
        """The time spent in forward passes so far; passes at the same time count once."""
        return self._runner.seconds

    @property
    def workers(self) -> int:
        """The number of images to process at once: as many as the network takes, one before it, and one after it."""
        return self.engine.parallel + 2

    def segment_many(self, images: Iterable[ImageLike], *, batch: int = 1) -> Iterator[Segmentation]:
        """Segment images in order: while the network runs, others are read, labeled, and preprocessed.

        Up to `batch` consecutive images whose network inputs have the same size share a forward pass, unless they do
        not fit into memory together. Images are never padded to the size of others, which would change their scores.

        Raises: `AtrousError` for an image that cannot be read, when its turn comes.
        """
        if batch == 1 or self.tile is not None or self.tta.crop is not None:
            yield from parallel_map(self, images, self.workers)
            return
        groups = group_consecutive(prefetch(map(read_image, images), depth=max(2, batch)), self._input_size, batch)
        for segmentations in parallel_map(self._segment_batch, groups, self.workers):
            yield from segmentations

    def _segment_batch(self, group: list[Pixels]) -> list[Segmentation]:
        predictions = self._predict_together(group) if len(group) > 1 else None
        if predictions is None:
            return [self(pixels) for pixels in group]
        return [self.to_segmentation(*pair) for pair in zip(group, predictions, strict=True)]

    def _predict_together(self, group: list[Pixels]) -> list[CoarsePrediction] | None:
        """Run the network on images whose inputs have the same size, in one batch; None if it exceeds the memory."""
        try:
            inputs = [self._to_input(pixels) for pixels in group]
            return self.predict_batch(inputs) if self.fits_in_memory(inputs) else None
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
        return None

    def probabilities(self, image: ImageLike) -> Tensor:
        """Compute the softmax over classes at the size of the image: a path, PIL image, array or tensor.

        It stays a tensor on the device; `segmenter(image, probabilities=True)` gives labels and a NumPy array.

        Shape: see `read_image` -> (K, H, W) float32.
        Raises: `AtrousError` for an image that cannot be read.
        """
        with _inference_mode():
            return self.predict_coarse(image).probabilities()

    def logits(self, image: ImageLike) -> Tensor:
        """Compute class logits at the size of the image: a path, PIL image, array or tensor.

        Where the softmaxes of several views or crops are averaged, these are logarithms of the averaged probabilities.

        Shape: see `read_image` -> (K, H, W) float.
        Raises: `AtrousError` for an image that cannot be read.
        """
        with _inference_mode():
            return self.predict_coarse(image).logits()

    def predict_coarse(self, image: ImageLike) -> CoarsePrediction | TiledPrediction:
        """Run the network on an image and keep its coarse scores, from which labels or probabilities are upsampled.

        Shape: see `read_image`.
        Raises: `AtrousError` for an image that cannot be read, or if memory runs out where windows cannot be used.
        """
        pixels = read_image(image)
        if self.tile is not None:
            input_bytes = 4 * 3 * self.tile**2
            if self.tile > FALLBACK_TILE and input_bytes > free_memory(self.engine.device):
                raise AtrousError(
                    f"tile {self.tile}: a window of {self.tile} x {self.tile} pixels takes {input_bytes / 1e9:.1f} GB "
                    "alone, more than there is. Choose a smaller one, such as 1025."
                )
            return self._predict_tiled(pixels, self.tile)
        if self.tta.crop is not None:
            return self._predict_crops(pixels)
        if not self._fits_in_memory(pixels):
            return self._fall_back_to_tiles(pixels, "Not enough free memory for")
        try:
            return self.predict_batch([self._to_input(pixels)])[0]
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
        return self._fall_back_to_tiles(pixels, "Memory ran out for")

    def preprocess(self, pixels: Pixels) -> NetworkInput | None:
        """Make the network's input for an image; None if it has to be segmented in windows, by `predict_coarse`.

        Shape: (H, W, 3) uint8 -> `planes` (3, h, w) float32.
        """
        if self.tile is not None or self.tta.crop is not None or not self._fits_in_memory(pixels):
            return None
        return self._to_input(pixels)

    def fits_in_memory(self, inputs: Sequence[NetworkInput]) -> bool:
        """Tell whether the activations of a batch of inputs fit into the free memory."""
        height, width = inputs[0].size
        return self._runner.has_memory_alone_for(len(inputs) * height * width * max(self.tta.scales) ** 2)

    def predict_batch(self, inputs: Sequence[NetworkInput]) -> list[CoarsePrediction]:
        """Run the network on inputs of one size in a single batch, and keep the coarse scores of each."""
        batch = np.stack([each.planes for each in inputs])
        with _inference_mode():
            views = self._run_views(batch)
            softmax_first = len(views) > 1 and self.tta.merge == "mean_softmax"
            return [
                CoarsePrediction(
                    tuple(view[index] for view in views),
                    input_size=each.size,
                    content_size=each.content_size,
                    image_size=each.image_size,
                    align_corners=self.engine.align_corners,
                    merge="mean_softmax" if softmax_first else "mean_logits",  # "max_logits" is a single view by now
                )
                for index, each in enumerate(inputs)
            ]

    def segment_strips(self, image: Pixels | PixelSource) -> Iterator[tuple[int, NDArray[np.integer]]]:
        """Segment an image in windows of `tile` pixels, by default 1024: strips of labels, each with its first row.

        The windows of a `PixelSource` are read when they are needed: neither image nor labels are in memory as a whole.

        Shape: (H, W, 3) -> each (h, W), from top to bottom.
        Raises: `AtrousError` for test-time augmentation that crops windows of its own.
        """
        if self.tta.crop is not None:
            raise AtrousError("This test-time augmentation crops its own windows: choose another for strips.")
        strips = self._predict_tiled(image, self.tile or FALLBACK_TILE).label_strips()
        while True:
            with _inference_mode():  # not while the caller works with a strip
                item = next(strips, None)
            if item is None:
                return
            yield item

    def to_segmentation(
        self, pixels: Pixels, prediction: CoarsePrediction | TiledPrediction, *, probabilities: bool = False
    ) -> Segmentation:
        """Compute labels, and probabilities if requested, from the coarse scores of an image.

        Shape: (H, W, 3) uint8.
        """
        if probabilities:
            with _inference_mode():
                softmax = prediction.probabilities()
            labels = softmax.argmax(0).numpy(force=True).astype(label_dtype(softmax.shape[0], 0))
            return Segmentation(pixels, labels, self.card.classes, self.card.colors, softmax.numpy(force=True))
        out = allocate_labels((pixels.shape[0], pixels.shape[1]), len(self.card.classes))
        with _inference_mode():
            labels = prediction.labels(out)
        return Segmentation(pixels, labels, self.card.classes, self.card.colors)

    def _run_network(self, batch: Batch) -> Batch:
        """Run the engine at the output stride of `model`, which may have been changed there.

        Shape: (N, 3, H, W) -> (N, K, h, w).
        """
        if self._path is not None and self._model is not None:
            self.set_output_stride(self._model.output_stride)
        return self._runner(batch)

    def _run_on_tensor(self, image: Tensor) -> Tensor:
        import torch

        return torch.as_tensor(self._run_network(image))

    def _to_input(self, pixels: Pixels) -> NetworkInput:
        planes, content_size = preprocess(pixels, self.card.preprocessing)
        return NetworkInput(planes, content_size, (pixels.shape[0], pixels.shape[1]))

    def _run_views(self, batch: NDArray[np.float32]) -> list[Scores]:
        if self.tta.scales == (1.0,) and not self.tta.flip:
            return [self._run_network(batch)]  # without torch
        import torch

        from atrous.inference.views import run_views

        image = torch.from_numpy(batch).to(self.device)
        views: list[Any] = run_views(self._run_on_tensor, image, self.tta, align_corners=self.engine.align_corners)
        return views

    def _predict_crops(self, pixels: Pixels) -> CoarsePrediction:
        from atrous.inference.views import run_crops

        size = pixels.shape[0], pixels.shape[1]
        with _inference_mode():
            views = run_crops(
                self._run_on_tensor,
                pixels,
                self.tta,
                self.card.preprocessing,
                align_corners=self.engine.align_corners,
                device=self.device,
            )
        return CoarsePrediction(tuple(views), size, size, size, align_corners=False, merge="mean_probabilities")

    def _predict_tiled(
        self, pixels: Pixels | PixelSource, tile: int, image_size: tuple[int, int] | None = None
    ) -> TiledPrediction:
        from atrous.inference.tiling import TiledPrediction
        from atrous.inference.views import run_views_fused

        align_corners = self.engine.align_corners

        def network(windows: Tensor) -> Tensor:
            return run_views_fused(self._run_on_tensor, windows, self.tta, align_corners=align_corners)

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
            image_size=image_size,
        )

    def _fall_back_to_tiles(self, pixels: Pixels, reason: str) -> TiledPrediction:
        height, width = self._input_size(pixels)
        image_size = pixels.shape[0], pixels.shape[1]
        content_size = resized_size(image_size, self.card.preprocessing)
        if content_size != image_size:
            area = content_size[0] * content_size[1]
            if area > MAX_PIXELS or 2 * 3 * area > free_memory("cpu"):
                raise AtrousError(
                    f"{reason} a network input of {width} x {height} pixels, to which the card resizes this image of "
                    f"{image_size[1]} x {image_size[0]}: use windows at the image's own scale, such as --tile 513."
                )
            pixels = resize_image(pixels, *content_size)
        log.warning(
            "%s an image of %d x %d pixels: segmenting it in windows of %d.", reason, width, height, FALLBACK_TILE
        )
        return self._predict_tiled(pixels, FALLBACK_TILE, image_size)

    def _fits_in_memory(self, pixels: Pixels) -> bool:
        height, width = self._input_size(pixels)
        return self._runner.has_memory_alone_for(height * width * max(self.tta.scales) ** 2)

    def _input_size(self, pixels: Pixels) -> tuple[int, int]:
        return preprocessed_size((pixels.shape[0], pixels.shape[1]), self.card.preprocessing)


def _inference_mode() -> contextlib.AbstractContextManager[object]:
    """Torch's inference mode, if torch is loaded."""
    torch = imported("torch")
    return torch.inference_mode() if torch else contextlib.nullcontext()
