"""Run a converted network by ONNX Runtime, without torch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray

from atrous.errors import AtrousError
from atrous.inference.engines.engine import Batch, Engine, num_threads, to_numpy
from atrous.inference.engines.metadata import METADATA_KEY, NetworkMetadata

if TYPE_CHECKING:
    import onnxruntime

IMAGE, SCORES = "image", "scores"
"""The names of the network's input and output."""


class OnnxRuntimeEngine(Engine):
    """Run an ONNX file that atrous wrote, or its content, by ONNX Runtime on the CPU.

    `optimized` skips the graph optimizations, for a file that ONNX Runtime itself wrote after them. `save_optimized`
    writes the optimized network to a file, which then starts faster; it is specific to this CPU and version.

    Raises: `AtrousError` for a file that is damaged or was not written by atrous.
    """

    name: ClassVar[str] = "onnxruntime"

    def __init__(self, source: Path | bytes, *, optimized: bool = False, save_optimized: Path | None = None) -> None:
        self.file = str(source) if isinstance(source, Path) else "the converted network"
        self._session = _create_session(source, self.file, optimized, save_optimized)
        text = self._session.get_modelmeta().custom_metadata_map.get(METADATA_KEY)
        self.metadata = NetworkMetadata.read(text, self.file)
        self.precision = self.metadata.precision

    def __call__(self, batch: Batch) -> NDArray[np.float32]:
        scores: NDArray[np.float32] = self._session.run([SCORES], {IMAGE: to_numpy(batch)})[0]
        return scores


def _create_session(
    source: Path | bytes, file: str, optimized: bool, save_optimized: Path | None
) -> onnxruntime.InferenceSession:
    import onnxruntime
    from onnxruntime.capi import onnxruntime_pybind11_state as errors

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors; warnings on each node that is not optimized are of no use here
    options.intra_op_num_threads = num_threads()
    options.inter_op_num_threads = 1
    level = onnxruntime.GraphOptimizationLevel
    options.graph_optimization_level = level.ORT_DISABLE_ALL if optimized else level.ORT_ENABLE_ALL
    if save_optimized is not None:
        options.optimized_model_filepath = str(save_optimized)
    onnxruntime.disable_telemetry_events()  # only builds for Windows have any
    content = source if isinstance(source, bytes) else str(source)
    try:
        return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except (errors.Fail, errors.InvalidProtobuf, errors.InvalidGraph, errors.InvalidArgument, errors.NoSuchFile,
            errors.NotImplemented, errors.RuntimeException) as error:  # fmt: skip
        reason = str(error).splitlines()[0]
        raise AtrousError(
            f"{file}: ONNX Runtime cannot load this file ({reason}). Export the weights again."
        ) from error
