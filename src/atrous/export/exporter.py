"""Export a network to a file, and compare the file with the network before it gets its name."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from atrous.errors import AtrousError, did_you_mean
from atrous.export.program import build_module, exported_card, trace
from atrous.export.verify import Difference, sample_images, verify
from atrous.files import writing
from atrous.imaging.io import Pixels
from atrous.inference.engines.convert import describe_network
from atrous.inference.engines.metadata import NetworkMetadata
from atrous.inference.engines.onnxruntime import OnnxRuntimeEngine
from atrous.inference.engines.openvino import OpenVinoEngine
from atrous.models import SegmentationModel

FORMATS = {".onnx": ".onnx", ".pt2": ".pt2", ".pte": ".executorch", ".xml": ".openvino"}
"""The suffix of each format, and the module that writes and runs its files."""


@dataclass(frozen=True)
class ExportReport:
    """An exported file: its size in bytes, with its weights, and its differences from the network."""

    path: Path
    num_bytes: int
    differences: tuple[Difference, ...]

    @property
    def largest_difference(self) -> float:
        """The largest difference, relative to the largest score."""
        return max(difference.largest for difference in self.differences)


def export_model(
    model: SegmentationModel,
    path: str | os.PathLike[str],
    *,
    labels: bool = False,
    size: tuple[int, int] | None = None,
    images: Sequence[Pixels] = (),
) -> ExportReport:
    """Export a network with its card: `.onnx`, `.xml` (OpenVINO), `.pt2` (`torch.export`) or `.pte` (ExecuTorch).

    The file has the input `image`, preprocessed, (N, 3, H, W) float32, and the output `scores`, the low-resolution
    logits (N, K, h, w); networks that post-process their logits give them at the size of the image. With `labels`, it
    contains preprocessing, resizing and arg-max too: `image` (N, H, W, 3) uint8 RGB, `labels` (N, H, W) uint8.
    `size` (height, width) fixes the size of `image`; ExecuTorch needs it, and takes one image at a time.

    The file is compared with the network on `images`, or on random ones, of three sizes, before it gets its name.

    Raises: `AtrousError` for a network without a card, an unknown format, a network that the format cannot express,
    and a file whose outputs differ from the network's.
    """
    path = Path(path)
    format_ = _format(path)
    if model.card is None:
        raise AtrousError("This model has no card, which travels inside the file: set model.card.")
    if path.suffix != ".pt2" and not model.is_convertible:
        raise AtrousError(
            f"{path.suffix} cannot express {model.card.model}, which contains operations that only torch has: "
            "export it to .pt2, or export its network without them."
        )
    card = model.card if labels else exported_card(model.card, size)
    metadata = describe_network(model, card).model_copy(
        update={"output": "labels" if labels else "scores", "size": size}
    )
    module = build_module(model, card, labels=labels, size=size)
    program = trace(module, labels=labels, size=size)
    with writing(path) as temporary:
        weights = temporary.with_suffix(".bin")  # of OpenVINO; the other formats are single files
        try:
            format_.write(program, temporary, metadata)
            differences = verify(format_.Runner(temporary), module, sample_images(images, size), card.preprocessing)
            num_bytes = temporary.stat().st_size
            if weights.exists():
                num_bytes += weights.stat().st_size
                os.replace(weights, path.with_suffix(".bin"))
        finally:
            weights.unlink(missing_ok=True)
    return ExportReport(path, num_bytes, tuple(differences))


def read_metadata(path: Path) -> NetworkMetadata:
    """Read the metadata of an exported file: its card, output stride and output.

    Raises: `AtrousError` for a damaged file, or one that was not written by atrous.
    """
    if path.suffix == ".onnx":
        return OnnxRuntimeEngine(path).metadata
    if path.suffix == ".xml":
        return OpenVinoEngine(path).metadata
    metadata: NetworkMetadata = _format(path).read_metadata(path)
    return metadata


def _format(path: Path) -> Any:
    """Import the module of the format that the suffix of a path names."""
    if path.suffix == ".tflite":
        raise AtrousError(
            f"{path}: litert-torch writes .tflite files from a .pt2 file, in an environment of its own: export to .pt2 "
            "with --size, then see docs/export.md."
        )
    if path.suffix not in FORMATS:
        raise AtrousError(
            f"{path}: unknown format.{did_you_mean(path.suffix, FORMATS)} Name the file *{', *'.join(FORMATS)}."
        )
    return import_module(FORMATS[path.suffix], __package__)
