"""Run a converted network by ONNX Runtime, without torch."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray

from atrous.errors import describe_unexpected
from atrous.files import temporary_folder
from atrous.inference.engines.engine import Batch, Engine, num_threads, run_error, to_numpy
from atrous.inference.engines.metadata import METADATA_KEY, InvalidFileError, NetworkMetadata
from atrous.telemetry import import_without_telemetry

if TYPE_CHECKING:
    import onnxruntime

IMAGE, SCORES = "image", "scores"
"""The names of the network's input and output."""


class OnnxRuntimeEngine(Engine):
    """Run an ONNX file that atrous wrote, or its content, by ONNX Runtime on the CPU.

    `optimized` skips the optimization of the graph, for the content that `optimize` returned. Threads may make
    `parallel` calls at once, each of which has its share of the cores.

    Raises: `AtrousError` without ONNX Runtime, and for a file that is damaged or was not written by atrous.
    """

    name: ClassVar[str] = "onnxruntime"

    def __init__(self, source: Path | bytes, *, optimized: bool = False, parallel: int = 1) -> None:
        options = _session_options(parallel)
        if optimized:
            options.graph_optimization_level = import_onnxruntime().GraphOptimizationLevel.ORT_DISABLE_ALL
        self._start(source, options, parallel)

    @classmethod
    def optimize(cls, content: bytes, *, parallel: int = 1) -> tuple[OnnxRuntimeEngine, bytes | None]:
        """Create an engine from the content of an ONNX file; return it with the content of its optimized network.

        That starts faster. It is specific to this CPU and to this version of ONNX Runtime. It is None where temporary
        files cannot be written, such as on a full disk.
        """
        engine = cls.__new__(cls)
        options = _session_options(parallel)
        try:
            with temporary_folder() as folder:
                path = folder / "optimized.onnx"
                options.optimized_model_filepath = str(path)
                engine._start(content, options, parallel)
                return engine, path.read_bytes()
        except (OSError, InvalidFileError):
            engine._start(content, _session_options(parallel), parallel)
            return engine, None

    def _start(self, source: Path | bytes, options: onnxruntime.SessionOptions, parallel: int) -> None:
        runtime = import_onnxruntime()
        file = str(source) if isinstance(source, Path) else "the converted network"
        content = source if isinstance(source, bytes) else str(source)
        try:
            self._session = runtime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
            text = self._session.get_modelmeta().custom_metadata_map.get(METADATA_KEY)
        except Exception as error:  # of many classes without a common base
            reason = describe_unexpected(error)
            raise InvalidFileError(
                f"{file}: ONNX Runtime cannot load this file ({reason}). Export the weights again."
            ) from error
        self.metadata = NetworkMetadata.read(text, file)
        self.precision = self.metadata.precision
        self.parallel = parallel

    def __call__(self, batch: Batch) -> NDArray[np.float32]:
        self._check_size(batch)
        try:
            scores: NDArray[np.float32] = self._session.run([SCORES], {IMAGE: to_numpy(batch)})[0]
        except Exception as error:
            if "alloc" in str(error).lower():
                raise MemoryError(str(error)) from error
            raise run_error(batch, error) from error
        self._check_scores(batch, scores)
        return scores


def import_onnxruntime() -> ModuleType:
    """Import ONNX Runtime without its telemetry.

    Raises: `AtrousError` if it is not installed.
    """
    return import_without_telemetry("onnxruntime")


def _session_options(parallel: int) -> onnxruntime.SessionOptions:
    options = import_onnxruntime().SessionOptions()
    options.log_severity_level = 4  # errors are raised
    options.intra_op_num_threads = max(1, num_threads() // parallel)
    options.inter_op_num_threads = 1
    # Threads that wait for work sleep: spinning, they would take the cores from arg-max, drawing and other processes.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options
