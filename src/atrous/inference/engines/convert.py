"""Convert a network to ONNX for the engines, with its metadata inside."""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.export import Dim

from atrous.card import Card
from atrous.errors import AtrousError
from atrous.inference.engines.metadata import METADATA_KEY, NetworkMetadata
from atrous.inference.engines.onnxruntime import IMAGE, SCORES, OnnxRuntimeEngine
from atrous.inference.memory import bytes_per_pixel
from atrous.models import SegmentationModel

OPSET = 18
"""The version of ONNX's operators."""

TRACED_SIZE = (2, 3, 65, 97)
"""The shape of the batch that a network is traced with; a batch of 1 would become a constant of the traced network."""


CHECKED_SIZE = (1, 3, 70, 121)
"""The shape of the batch on which a converted network is compared with the original."""

TOLERANCE = 1e-3
"""The largest difference of scores from the original's, relative to the largest score."""


class ConversionError(AtrousError):
    """A network that cannot be converted for another runtime."""


class ScoreModule(nn.Module):
    """Compute what engines return: low-resolution logits, or the outputs of a network that post-processes them."""

    def __init__(self, model: SegmentationModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Tensor) -> Tensor:
        return self.model.scores(image) if self.model.output_is_resized_scores else self.model(image)


def describe_network(model: SegmentationModel, card: Card) -> NetworkMetadata:
    """Make the metadata of a network at its present output stride; its memory is measured on a small image."""
    with _evaluation_mode(model) as scores:
        return NetworkMetadata(
            card=card,
            output_stride=model.output_stride,
            possible_output_strides=tuple(model.possible_output_strides()),
            align_corners=model.align_corners,
            output_is_resized_scores=model.output_is_resized_scores,
            bytes_per_pixel=bytes_per_pixel(model, scores, _device(model)),
        )


def to_onnx(model: SegmentationModel, metadata: NetworkMetadata) -> bytes:
    """Convert a network at its present output stride to ONNX, for batches of any size and images of any size.

    Torch's older exporter takes a fraction of the time of the newer one, which serves where the older one is missing.
    The converted network is compared with the original on an image of another size.

    Raises: `ConversionError` for a network with operations that ONNX lacks.
    """
    name = type(model).__name__
    if not model.is_convertible:
        raise ConversionError(f"{name} contains operations that only torch has: use the engine 'torch'.")
    with _evaluation_mode(model) as scores:
        try:
            content = _export(scores, torch.zeros(TRACED_SIZE, device=_device(model)))
        except Exception as error:  # the exporters raise many kinds
            reason = str(error).strip().splitlines()[0]
            raise ConversionError(f"{name} cannot be converted to ONNX ({reason}): use the engine 'torch'.") from error
        content += encode_metadata(METADATA_KEY, metadata.model_dump_json())
        if not _agrees(content, scores, _device(model)):
            raise ConversionError(f"{name} computes other scores after conversion to ONNX: use the engine 'torch'.")
    return content


@contextlib.contextmanager
def _evaluation_mode(model: SegmentationModel) -> Iterator[ScoreModule]:
    training = model.training
    try:
        yield ScoreModule(model).eval()
    finally:
        model.train(training)


def _device(model: nn.Module) -> torch.device:
    return next((parameter.device for parameter in model.parameters()), torch.device("cpu"))


@torch.no_grad()
def _agrees(content: bytes, module: nn.Module, device: torch.device) -> bool:
    """Compare a converted network with the original, on an image of another size than the traced one."""
    image = torch.rand(CHECKED_SIZE, generator=torch.Generator().manual_seed(0)) - 0.5
    expected = module(image.to(device)).numpy(force=True)
    scores = OnnxRuntimeEngine(content)(image)
    if scores.shape != expected.shape:
        return False
    return float(np.abs(scores - expected).max()) <= TOLERANCE * float(np.abs(expected).max())


def _export(module: nn.Module, image: Tensor) -> bytes:
    options: dict[str, Any] = {"input_names": [IMAGE], "output_names": [SCORES], "opset_version": OPSET}
    content: Any = io.BytesIO()  # torch declares only paths
    # Torch warns of traced sizes and of the exporter's age, and prints the whole graph if it fails.
    with warnings.catch_warnings(), torch.no_grad(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        try:
            torch.onnx.export(
                module,
                (image,),
                content,
                dynamo=False,
                do_constant_folding=False,  # torch's gives wrong results for some networks; the runtimes have their own
                dynamic_axes={IMAGE: {0: "N", 2: "H", 3: "W"}, SCORES: {0: "N", 2: "h", 3: "w"}},
                **options,
            )
        except TypeError:  # the older exporter was removed
            sizes = {0: Dim("N"), 2: Dim("H"), 3: Dim("W")}
            program = torch.onnx.export(module, (image,), dynamo=True, dynamic_shapes=(sizes,), **options)
            assert program is not None
            program.save(content)
    result: bytes = content.getvalue()
    return result


def encode_metadata(key: str, value: str) -> bytes:
    """Encode a metadata property that, appended to the content of an ONNX file, becomes part of it.

    ONNX files are protocol buffers, in which two concatenated messages are one that has the fields of both.

    Source: `ModelProto.metadata_props` (field 14) and `StringStringEntryProto` (fields 1 and 2) of `onnx.proto`.
    """
    return _field(14, _field(1, key.encode()) + _field(2, value.encode()))


def _field(number: int, content: bytes) -> bytes:
    """Encode a field of variable length: its number and wire type (2), its length, its content."""
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 127:
        encoded.append(value & 127 | 128)
        value >>= 7
    return bytes([*encoded, value])
