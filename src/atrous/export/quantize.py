"""Quantize networks to 8 bits after training, by NNCF, and measure what that costs."""

from __future__ import annotations

import logging
import math
import os
import statistics
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from atrous.card import Card, Measurement
from atrous.errors import AtrousError
from atrous.evaluation.evaluate import EvaluationResult, LabeledDataset, check_classes, check_data, evaluate
from atrous.export import onnx as onnx_format
from atrous.export import openvino as openvino_format
from atrous.export.program import build_module, exported_card, trace
from atrous.files import temporary_folder, writing
from atrous.imaging.draw import LabeledImage
from atrous.inference import Segmenter
from atrous.inference.engines.convert import describe_network
from atrous.inference.engines.create import create_engine
from atrous.inference.engines.engine import Batch, Engine, num_threads, to_numpy
from atrous.inference.engines.metadata import NetworkMetadata
from atrous.inference.engines.onnxruntime import IMAGE, OnnxRuntimeEngine
from atrous.inference.engines.openvino import create_core
from atrous.inference.engines.signal_stack import keep_signal_stack
from atrous.inference.preprocess import preprocess
from atrous.models import SegmentationModel
from atrous.telemetry import import_without_telemetry

TIMED_RUNS = 15
"""The number of times that each of two networks is run to compare their speed."""

RANKING_IMAGES = 32
"""The number of images on which layers are ranked by what their quantization costs."""

FLOAT = "before quantization"
"""The addition to the names of figures of the network before quantization."""


@dataclass(frozen=True)
class QuantizationReport:
    """A quantized file, and its figures before and after: mIoU in percent, bytes, and seconds per image.

    `input_size` is the size of the images whose time was taken.
    """

    path: Path
    miou: tuple[float, float]
    num_bytes: tuple[int, int]
    seconds: tuple[float, float]
    input_size: tuple[int, int]

    def table(self) -> str:
        """Lay the figures out as text."""
        height, width = self.input_size
        rows = (
            ("mIoU", *(f"{value:.2f}" for value in self.miou)),
            ("size", *(f"{value / 1e6:.2f} MB" for value in self.num_bytes)),
            (f"{width} x {height} pixels", *(f"{value * 1e3:.1f} ms" for value in self.seconds)),
        )
        head = f"{'':20}{'float32':>12}{'8 bits':>12}"
        return "\n".join([head, *(f"{name:20}{before:>12}{after:>12}" for name, before, after in rows)])

    def card(self, card: Card, data: str, command: str) -> Card:
        """Write the figures into a card; those that it had are of the network before quantization."""
        timed = "{1} x {0} pixels, {2} threads".format(*self.input_size, num_threads())
        rows = (
            ("mIoU", [round(value, 2) for value in self.miou], data),
            ("megabytes", [round(value / 1e6, 2) for value in self.num_bytes], "the file"),
            ("milliseconds", [round(value * 1e3, 1) for value in self.seconds], timed),
        )
        measured = [each.model_copy(update={"name": f"{each.name} {FLOAT}"}) for each in card.measured]
        for name, values, where in rows:
            for label, value in zip((f"{name} {FLOAT}", name), values, strict=True):
                measured.append(Measurement(name=label, value=value, data=where, command=command))
        return card.model_copy(update={"measured": tuple(measured)})


def quantize_model(
    model: SegmentationModel,
    path: str | os.PathLike[str],
    calibration: LabeledDataset,
    validation: LabeledDataset,
    *,
    max_drop: float = 0.5,
    images: int = 64,
    size: tuple[int, int] | None = None,
    data: str = "",
    command: str = "",
    allow_overlap: bool = False,
) -> QuantizationReport:
    """Quantize a network to 8 bits and export it to OpenVINO (`.xml`) or ONNX (`.onnx`), with its card.

    The ranges of activations come from `images` images of `calibration`. If the mIoU on `validation` drops by more than
    `max_drop` points, layers return to float one by one, those first that lose most. mIoU, size and speed are written
    into the card, with the names of the data set and the command. `size` (height, width) fixes the size of the input.
    `allow_overlap` permits images in `validation` that the network was trained on.

    Raises: `AtrousError` without NNCF, for another format, for data with other classes, for images in `validation` that
    were trained on, and if the mIoU drops further with all layers tried; then no file is written.
    """
    path = Path(path)
    if path.suffix not in (".onnx", ".xml"):
        raise AtrousError(f"{path}: quantized networks are stored as OpenVINO or ONNX files: name it *.xml or *.onnx.")
    nncf = import_without_telemetry("nncf", "quantize")
    logging.getLogger("nncf").setLevel(logging.ERROR)  # nncf.set_log_level would change handlers, which others may use
    if model.card is None:
        raise AtrousError("This model has no card, which travels inside the file: set model.card.")
    if not model.is_convertible:
        raise AtrousError(f"{model.card.model} contains operations that only torch has: quantize its network without.")
    card = exported_card(model.card, size)
    check_classes(card, calibration)
    check_data(card, validation, allow_overlap=allow_overlap)
    metadata = describe_network(model, card).model_copy(update={"size": size})
    original = _convert(model, path.suffix, metadata, size)
    accuracy = _Accuracy(metadata, validation)
    with keep_signal_stack():
        quantized = nncf.quantize_with_accuracy_control(
            original,
            nncf.Dataset(_calibration_inputs(calibration, card, images)),
            nncf.Dataset(range(len(validation))),
            validation_fn=accuracy,
            max_drop=max_drop / 100,
            drop_type=nncf.DropType.ABSOLUTE,
            preset=nncf.QuantizationPreset.MIXED,
            subset_size=images,
            advanced_accuracy_restorer_parameters=nncf.AdvancedAccuracyRestorerParameters(
                ranking_subset_size=min(RANKING_IMAGES, len(validation)), num_ranking_workers=1
            ),
        )
    with temporary_folder() as folder:
        before = _save(original, folder / f"float{path.suffix}", metadata)
        after = _save(quantized, folder / f"int8{path.suffix}", metadata.model_copy(update={"precision": "int8"}))
        report = _measure(path, before, after, accuracy, max_drop)
        final = report.card(card, f"{data} ({len(validation)} images)" if data else "", command)
        _write(quantized, path, metadata.model_copy(update={"precision": "int8", "card": final}))
    return report


def _convert(model: SegmentationModel, suffix: str, metadata: NetworkMetadata, size: tuple[int, int] | None) -> Any:
    """Convert a network to ONNX, and from there to OpenVINO for its files."""
    module = build_module(model, metadata.card, labels=False, size=size)
    converted = onnx_format.convert(trace(module, labels=False, size=size), metadata)
    if suffix == ".onnx":
        return converted
    return create_core().read_model(converted.SerializeToString())


def _calibration_inputs(data: LabeledDataset, card: Card, count: int) -> list[dict[str, Any]]:
    """Preprocess images that are spread evenly over a data set.

    Shape: -> (1, 3, H, W) float32 each.
    """
    indices = np.unique(np.linspace(0, len(data) - 1, count).round().astype(int))
    return [{IMAGE: preprocess(data[int(index)].image, card.preprocessing)[0][None]} for index in indices]


class _Accuracy:
    """Compute the mIoU of a network on a data set, as NNCF asks for it; `mious` collects that on all images.

    NNCF passes a compiled OpenVINO model or an ONNX model, and the indices of images.
    """

    def __init__(self, metadata: NetworkMetadata, data: LabeledDataset) -> None:
        self.metadata = metadata
        self.data = data
        self.mious: list[float] = []

    def __call__(self, network: Any, indices: Iterable[int]) -> tuple[float, list[float]]:
        chosen = _Selection(self.data, list(indices))
        result = self.evaluate(self._engine(network), chosen)
        if len(chosen) == len(self.data):
            self.mious.append(result.confusion.miou)
        # An image without labels tells nothing about a layer: 0 before and after.
        scores = [result.image_scores[index] for index in range(len(chosen))]
        return result.confusion.miou, [0.0 if math.isnan(score) else score for score in scores]

    def evaluate(self, engine: Engine, data: LabeledDataset) -> EvaluationResult:
        """Count a data set, without boundaries."""
        return evaluate(Segmenter.from_engine(engine), data, boundaries=False, allow_overlap=True)  # checked before

    def _engine(self, network: Any) -> Engine:
        if hasattr(network, "SerializeToString"):
            return OnnxRuntimeEngine(onnx_format.with_metadata(network, self.metadata).SerializeToString())
        return _CompiledModel(network, self.metadata)


class _CompiledModel(Engine):
    """Run an OpenVINO model that NNCF has compiled, in float32 where it is not quantized."""

    name: ClassVar[str] = "openvino"
    precision = "int8"

    def __init__(self, network: Any, metadata: NetworkMetadata) -> None:
        self._network = network
        self.metadata = metadata

    def __call__(self, batch: Batch) -> NDArray[np.float32]:
        scores: NDArray[np.float32] = self._network([to_numpy(batch)])[0]
        return scores


class _Selection:
    """Some images of a data set."""

    def __init__(self, data: LabeledDataset, indices: Sequence[int]) -> None:
        self._data, self._indices = data, indices
        self.classes, self.ignore_index = data.classes, data.ignore_index

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, index: int) -> LabeledImage:
        return self._data[self._indices[index]]


def _save(network: Any, path: Path, metadata: NetworkMetadata) -> Path:
    """Write a network that NNCF has seen to a file with its metadata."""
    if path.suffix == ".onnx":
        path.write_bytes(onnx_format.with_metadata(network, metadata).SerializeToString())
    else:
        openvino_format.save(network, path, metadata)
    return path


def _write(network: Any, path: Path, metadata: NetworkMetadata) -> None:
    """Write a network under a temporary name first; the weights of OpenVINO are a file beside it."""
    with writing(path) as temporary:
        _save(network, temporary, metadata)
        weights = temporary.with_suffix(".bin")
        if weights.exists():
            os.replace(weights, path.with_suffix(".bin"))


def _measure(path: Path, before: Path, after: Path, accuracy: _Accuracy, max_drop: float) -> QuantizationReport:
    """Compare the file of the quantized network with that of the original."""
    engines = [create_engine(file) for file in (before, after)]
    miou = 100 * accuracy.mious[0], 100 * accuracy.evaluate(engines[1], accuracy.data).confusion.miou
    if not miou[0] - miou[1] <= max_drop + 0.005:  # printed with two decimals
        raise AtrousError(
            f"Quantized, the network reaches an mIoU of {miou[1]:.2f} instead of {miou[0]:.2f}, which is below the "
            f"allowed drop of {max_drop:g}, so no file was written. Use more --images, or allow a larger --max-drop."
        )
    image = preprocess(accuracy.data[0].image, accuracy.metadata.card.preprocessing)[0][None]
    seconds: tuple[list[float], list[float]] = ([], [])
    for _ in range(TIMED_RUNS):
        for engine, times in zip(engines, seconds, strict=True):
            start = time.perf_counter()
            engine(image)
            times.append(time.perf_counter() - start)
    return QuantizationReport(
        path,
        miou,
        (_num_bytes(before), _num_bytes(after)),
        (statistics.median(seconds[0]), statistics.median(seconds[1])),
        (image.shape[2], image.shape[3]),
    )


def _num_bytes(path: Path) -> int:
    """The size of a file and of its weights, which lie beside it in OpenVINO's format."""
    return sum(each.stat().st_size for each in path.parent.glob(f"{path.stem}.*"))
