"""`.pte`: the format of ExecuTorch, for phones and other devices, whose XNNPACK backend computes the convolutions."""

from __future__ import annotations

import warnings
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.export import ExportedProgram

from atrous.errors import AtrousError
from atrous.inference.engines.metadata import METADATA_KEY, NetworkMetadata


def write(program: ExportedProgram, path: Path, metadata: NetworkMetadata) -> None:
    """Write a traced network to a `.pte` file for one image of a fixed size; its method `atrous` gives the metadata.

    Raises: `AtrousError` for an input of any size, without ExecuTorch, and for a network that it cannot express.
    """
    if metadata.size is None:
        raise AtrousError("The input of a .pte file has a fixed size: add --size HxW.")
    exir = _import_executorch("executorch.exir")
    xnnpack = _import_executorch("executorch.backends.xnnpack.partition.xnnpack_partitioner")
    if metadata.output == "labels":
        image = torch.zeros(1, *metadata.size, 3, dtype=torch.uint8)
    else:
        image = torch.zeros(1, 3, *metadata.size)
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # torch's own, on its trees of arguments
            single = torch.export.export(program.module(), (image,))
            lowered = exir.to_edge_transform_and_lower(
                single,
                partitioner=[xnnpack.XnnpackPartitioner()],
                constant_methods={METADATA_KEY: metadata.model_dump_json()},
            ).to_executorch()
    except (RuntimeError, ValueError, TypeError, AssertionError) as error:
        reason = str(error).strip().splitlines()[0]
        raise AtrousError(f"ExecuTorch cannot express this network ({reason}): use another format.") from error
    path.write_bytes(lowered.buffer)


def read_metadata(path: Path) -> NetworkMetadata:
    """Read the metadata of a `.pte` file.

    Raises: `AtrousError` without ExecuTorch, and for a damaged file, or one without metadata.
    """
    program = _load(path)
    text = program.load_method(METADATA_KEY).execute([])[0] if METADATA_KEY in program.method_names else None
    return NetworkMetadata.read(text, str(path))


class Runner:
    """Run a `.pte` file, image by image.

    Raises: `AtrousError` for a network with operations that ExecuTorch's runtime for Python does not have.
    """

    def __init__(self, path: Path) -> None:
        try:
            self._network = _load(path).load_method("forward")
        except RuntimeError as error:
            raise AtrousError(f"ExecuTorch cannot run this network ({error}): use another format.") from error

    def __call__(self, image: NDArray[np.generic]) -> NDArray[np.generic]:
        return np.concatenate([self._network.execute([torch.from_numpy(each[None])])[0].numpy() for each in image])


def _load(path: Path) -> Any:
    try:
        return _import_executorch("executorch.runtime").Runtime.get().load_program(path)
    except RuntimeError as error:
        raise AtrousError(f"{path}: not a .pte file, or a damaged one ({error}). Export the weights again.") from error


def _import_executorch(name: str) -> Any:
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        raise AtrousError("ExecuTorch is not installed: pip install 'atrous[executorch]'.") from error
