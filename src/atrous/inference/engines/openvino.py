"""Run a converted network by OpenVINO, without torch."""

from __future__ import annotations

import re
import threading
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from atrous.errors import AtrousError
from atrous.inference.engines.engine import Batch, Engine, num_threads, run_error, to_numpy
from atrous.inference.engines.metadata import (
    CHECKSUM_KEY,
    METADATA_KEY,
    InvalidFileError,
    NetworkMetadata,
    Precision,
)
from atrous.inference.engines.signal_stack import keep_signal_stack
from atrous.telemetry import import_without_telemetry

if TYPE_CHECKING:
    import openvino

_HINTS = {"float32": "f32", "bfloat16": "bf16"}


class OpenVinoEngine(Engine):
    """Run an OpenVINO (.xml with .bin) or ONNX file that atrous wrote, or the content of the latter, on the CPU.

    The precision is that of the arithmetic: OpenVINO itself would choose bfloat16 wherever the CPU has it. A quantized
    network computes in 8 bits where it is quantized, and otherwise in float32, or in bfloat16 if that is asked for.
    Threads may make `parallel` calls at once, each of which has its share of the cores.

    The network is compiled once for batches and images of any size, and once for a single image of the size that the
    card's preprocessing gives all images, if it does, because that is faster; each at its first use.

    Raises: `AtrousError` without OpenVINO, for a precision that the network or the CPU does not support, and for a file
    that is damaged or was not written by atrous.
    """

    name: ClassVar[str] = "openvino"

    def __init__(self, source: Path | bytes, *, precision: Precision = "float32", parallel: int = 1) -> None:
        file = str(source) if isinstance(source, Path) else "the converted network"
        if isinstance(source, Path):
            _check_values(source)
        core = create_core()
        try:
            model = core.read_model(source)
            metadata = _read_property(model)
        except (RuntimeError, UnicodeDecodeError) as error:
            raise _load_error(file, error) from error
        self.metadata = NetworkMetadata.read(metadata, file)
        self.precision = "int8" if (self.metadata.precision, precision) == ("int8", "float32") else precision
        if precision == "bfloat16" and "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
            raise AtrousError("This CPU does not compute in bfloat16: use precision 'float32'.")
        self.parallel = parallel
        self._core = core
        self._model = model
        self._options = {
            "INFERENCE_PRECISION_HINT": _HINTS.get(self.precision, "f32"),
            "NUM_STREAMS": parallel,
            "INFERENCE_NUM_THREADS": num_threads(),
            "ENABLE_CPU_PINNING": False,  # arg-max and drawing use the same cores
        }
        self._usual_shape = _usual_shape(self.metadata)
        self._compiled: dict[bool, Any] = {}
        self._lock = threading.Lock()
        self._requests = threading.local()
        try:
            self._request(self._usual_shape is not None)  # what is damaged is found now
        except RuntimeError as error:
            raise _load_error(file, error) from error

    def __call__(self, batch: Batch) -> NDArray[np.float32]:
        self._check_size(batch)
        images = to_numpy(batch)
        try:
            scores: NDArray[np.float32] = self._request(images.shape == self._usual_shape).infer([images])[0]
        except RuntimeError as error:
            if "alloc" in str(error).lower():
                raise MemoryError(str(error)) from error
            raise run_error(batch, error) from error
        self._check_scores(batch, scores)
        return scores

    def _request(self, usual: bool) -> Any:
        """Get this thread's request for the usual shape, or for any shape; compile the network if necessary."""
        requests: dict[Any, Any] = self._requests.__dict__
        if usual not in requests:
            with self._lock:
                if usual not in self._compiled:
                    model = self._model.clone()
                    if usual:
                        model.reshape(list(self._usual_shape or ()))
                    self._compiled[usual] = self._core.compile_model(model, "CPU", self._options)
            requests[usual] = self._compiled[usual].create_infer_request()
        return requests[usual]


def _load_error(file: str, error: Exception) -> InvalidFileError:
    reason = (str(error).strip().splitlines() or [type(error).__name__])[-1]
    return InvalidFileError(f"{file}: OpenVINO cannot load this file ({reason}). Export the weights again.")


def _check_values(path: Path) -> None:
    """Check the `.bin` file beside an `.xml` file, which OpenVINO itself does not.

    Raises: `AtrousError` if it is not the one that was written with it.
    """
    from atrous.weights.download import compute_sha256

    values = path.with_suffix(".bin")
    if path.suffix != ".xml" or not path.is_file() or not values.is_file():
        return
    checksum = re.search(rf'<{CHECKSUM_KEY} value="([0-9a-f]+)"'.encode(), path.read_bytes())
    if checksum and compute_sha256(values).encode() != checksum[1]:
        raise InvalidFileError(f"{values}: this file is damaged, or not that of {path.name}. Export the weights again.")


def _usual_shape(metadata: NetworkMetadata) -> tuple[int, ...] | None:
    """The shape of a single image's input where the card gives all images the same size."""
    size = metadata.card.preprocessing.size
    return (1, 3, *size) if size and metadata.card.preprocessing.resize in ("pad", "squeeze") else None


def import_openvino() -> ModuleType:
    """Import OpenVINO without its telemetry, which would report each import to its developers.

    Raises: `AtrousError` if OpenVINO is not installed.
    """
    return import_without_telemetry("openvino", "openvino")


def create_core() -> openvino.Core:
    """Create OpenVINO's `Core` and load its CPU plugin, without its signal stack (see `keep_signal_stack`).

    Raises: `AtrousError` if OpenVINO is not installed.
    """
    core = import_openvino().Core()
    with keep_signal_stack():
        core.get_property("CPU", "FULL_DEVICE_NAME")
    return core


def _read_property(model: openvino.Model) -> str | None:
    """Read the metadata as OpenVINO stores those of its own files, or those of an ONNX file."""
    for path in ([METADATA_KEY], ["framework", METADATA_KEY]):
        if model.has_rt_info(path):
            return str(model.get_rt_info(path).astype(str))
    return None
