"""Convert a network to ONNX for the engines, with its metadata inside."""

from __future__ import annotations

import contextlib
import io
import warnings
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.export import Dim

from atrous.card import Card
from atrous.inference.engines.engine import ConversionError, Engine, to_numpy
from atrous.inference.engines.metadata import METADATA_KEY, NetworkMetadata, encode_metadata
from atrous.inference.engines.onnxruntime import IMAGE, SCORES
from atrous.inference.memory import bytes_per_pixel
from atrous.layers.mode import evaluation_mode
from atrous.models import SegmentationModel

OPSET = 18
"""The version of ONNX's operators."""

TRACED_SIZE = (2, 3, 65, 97)
"""The shape of the batch that a network is traced with; a batch of 1 would become a constant of the traced network."""


CHECKED_SIZE = (1, 3, 70, 121)
"""The shape of the batch on which a converted network is compared with the original."""

TOLERANCES = {"float32": 1e-3, "bfloat16": 0.2, "int8": 0.5}
"""The largest difference of scores from the original's by precision, relative to the largest score."""


class ScoreModule(nn.Module):
    """Compute what engines return: low-resolution logits, or the outputs of a network that post-processes them."""

    def __init__(self, model: SegmentationModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Tensor) -> Tensor:
        return self.model.scores(image) if self.model.output_is_resized_scores else self.model(image)


def describe_network(model: SegmentationModel, card: Card) -> NetworkMetadata:
    """Make the metadata of a network at its present output stride; its memory is measured on a small image."""
    with evaluation_mode(model):
        return NetworkMetadata(
            card=card,
            output_stride=model.output_stride,
            possible_output_strides=tuple(model.possible_output_strides()),
            align_corners=model.align_corners,
            output_is_resized_scores=model.output_is_resized_scores,
            bytes_per_pixel=bytes_per_pixel(model, model.scores, module_device(model)),
        )


def to_onnx(model: SegmentationModel, metadata: NetworkMetadata) -> bytes:
    """Convert a network at its present output stride to ONNX, for batches of any size and images of any size.

    Torch's older exporter takes a fraction of the time of the newer one, which serves where the older one is missing.

    Raises: `ConversionError` for a network with operations that ONNX lacks.
    """
    name = type(model).__name__
    if not model.is_convertible:
        raise ConversionError(f"{name} contains operations that only torch has: use the engine 'torch'.")
    module = ScoreModule(model)
    with evaluation_mode(module):
        try:
            content = _export(module, torch.zeros(TRACED_SIZE, device=module_device(model)))
        except Exception as error:  # the exporters raise many kinds
            reason = str(error).strip().splitlines()[0]
            raise ConversionError(f"{name} cannot be converted to ONNX ({reason}): use the engine 'torch'.") from error
    return content + encode_metadata(METADATA_KEY, metadata.model_dump_json())


def check_scores(engine: Engine, model: SegmentationModel) -> None:
    """Compare the scores of a converted network with the original's, on an image of another size than the traced one.

    Raises: `ConversionError` if they differ by more than the engine's precision explains.
    """
    image = torch.rand(CHECKED_SIZE, generator=torch.Generator().manual_seed(0)) * 4 - 2
    module = ScoreModule(model)
    with evaluation_mode(module), torch.no_grad():
        expected = module(image.to(module_device(model))).numpy(force=True)
    scores = to_numpy(engine(image))
    if scores.shape != expected.shape or not _is_close(scores, expected, TOLERANCES[engine.precision]):
        raise ConversionError(
            f"{type(model).__name__} computes other scores after conversion to ONNX: use the engine 'torch'."
        )


def _is_close(scores: NDArray[np.float32], expected: NDArray[np.float32], tolerance: float) -> bool:
    return bool(np.abs(scores - expected).max() <= tolerance * np.abs(expected).max())


def module_device(model: nn.Module) -> torch.device:
    """Find the device of a network; the CPU for one without parameters."""
    return next((parameter.device for parameter in model.parameters()), torch.device("cpu"))


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
