"""`.onnx`: the format of ONNX Runtime, and of most other runtimes."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.export import ExportedProgram

from atrous.errors import AtrousError
from atrous.inference.engines.metadata import METADATA_KEY, NetworkMetadata
from atrous.inference.engines.onnxruntime import IMAGE, import_onnxruntime
from atrous.layers.pool import DECOMPOSITIONS

if TYPE_CHECKING:
    import onnx

AXES = {"scores": (("N", 3, "H", "W"), ("N", None, "h", "w")), "labels": (("N", "H", "W", 3), ("N", "H", "W"))}
"""The names of the axes of input and output; a number or None for one of fixed size."""


def convert(program: ExportedProgram, metadata: NetworkMetadata) -> onnx.ModelProto:
    """Convert a traced network to ONNX, with its metadata inside.

    Raises: `AtrousError` for a network with operations that ONNX lacks, or without the packages of the extra.
    """
    try:
        import onnx
        import onnxscript  # noqa: F401  (torch's exporter needs it)
    except ImportError as error:
        raise AtrousError(f"Exporting needs {error.name}: pip install 'atrous[export]'.") from error
    try:
        with _quiet():
            program = program.run_decompositions(DECOMPOSITIONS)
            exported = torch.onnx.export(
                program, dynamo=True, input_names=[IMAGE], output_names=[metadata.output], optimize=True, verbose=False
            )
    except torch.onnx.errors.OnnxExporterError as error:
        reason = str(error.__cause__ or error).strip().splitlines()[0]
        raise AtrousError(f"ONNX lacks an operation of this network ({reason}): export it to .pt2.") from error
    assert exported is not None
    model = exported.model_proto
    _strip_traces(model.graph)
    _name_axes(model.graph, metadata)
    onnx.checker.check_model(model)
    return with_metadata(model, metadata)


def with_metadata(model: onnx.ModelProto, metadata: NetworkMetadata) -> onnx.ModelProto:
    """Store metadata in an ONNX model, in place of what it had."""
    import onnx

    onnx.helper.set_model_props(model, {METADATA_KEY: metadata.model_dump_json()})
    return model


def write(program: ExportedProgram, path: Path, metadata: NetworkMetadata) -> None:
    """Write a traced network to an ONNX file, with its metadata under the key `atrous`."""
    path.write_bytes(convert(program, metadata).SerializeToString())


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporter, which prints its progress and warns of what does not concern the user."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), torch.no_grad():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _strip_traces(graph: onnx.GraphProto) -> None:
    """Remove the exporter's notes on each node: its stack trace, with the paths of this machine, and its layer."""
    values = (*graph.input, *graph.output, *graph.value_info, *graph.initializer)
    for part in (*graph.node, *values, graph):
        del part.metadata_props[:]


def _name_axes(graph: onnx.GraphProto, metadata: NetworkMetadata) -> None:
    """Replace the exporter's names of the symbolic axes, such as `s77`, by those of the documentation."""
    renamed = {}
    for value, names in zip((graph.input[0], graph.output[0]), AXES[metadata.output], strict=True):
        for axis, name in zip(value.type.tensor_type.shape.dim, names, strict=True):
            if isinstance(name, str) and not axis.HasField("dim_value"):
                renamed[axis.dim_param] = name
                axis.dim_param = name
    for value in graph.value_info:
        for axis in value.type.tensor_type.shape.dim:
            if axis.dim_param in renamed:
                axis.dim_param = renamed[axis.dim_param]


class Runner:
    """Run an ONNX file by ONNX Runtime."""

    def __init__(self, path: Path) -> None:
        self._session: Any = import_onnxruntime().InferenceSession(path, providers=["CPUExecutionProvider"])

    def __call__(self, image: NDArray[np.generic]) -> NDArray[np.generic]:
        output: NDArray[np.generic] = self._session.run(None, {IMAGE: image})[0]
        return output
