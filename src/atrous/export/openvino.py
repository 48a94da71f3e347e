"""`.xml`: the format of OpenVINO, whose weights lie in a `.bin` file of the same name."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from atrous.export.onnx import convert
from atrous.inference.engines.metadata import CHECKSUM_KEY, METADATA_KEY, NetworkMetadata
from atrous.inference.engines.openvino import create_core, import_openvino
from atrous.weights.download import compute_sha256

if TYPE_CHECKING:
    from torch.export import ExportedProgram


def write(program: ExportedProgram, path: Path, metadata: NetworkMetadata) -> None:
    """Write a traced network to an OpenVINO file and its `.bin` file, in float32, with its metadata in `rt_info`."""
    model = create_core().read_model(convert(program, metadata).SerializeToString())
    save(model, path, metadata)


def save(model: Any, path: Path, metadata: NetworkMetadata) -> None:
    """Write an OpenVINO model with its metadata and the checksum of its values; floats keep their 32 bits."""
    save_model = import_openvino().save_model
    model.set_rt_info(metadata.model_dump_json(), [METADATA_KEY])
    save_model(model, path, compress_to_fp16=False)
    model.set_rt_info(compute_sha256(path.with_suffix(".bin")), [CHECKSUM_KEY])
    save_model(model, path, compress_to_fp16=False)


class Runner:
    """Run an OpenVINO file on the CPU, in float32."""

    def __init__(self, path: Path) -> None:
        core = create_core()
        # OpenVINO would choose 16 bits by itself where the CPU has them.
        self._network = core.compile_model(core.read_model(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})

    def __call__(self, image: NDArray[np.generic]) -> NDArray[np.generic]:
        output: NDArray[np.generic] = self._network(image)[0]
        return output
