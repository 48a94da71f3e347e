"""`.pt2`: the format of `torch.export`, for programs that run torch without this package."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch.export import ExportedProgram

from atrous.errors import AtrousError, describe_unexpected
from atrous.inference.engines.metadata import METADATA_KEY, NetworkMetadata


def write(program: ExportedProgram, path: Path, metadata: NetworkMetadata) -> None:
    """Write a traced network to a `.pt2` file, with its metadata as the extra file `atrous`."""
    torch.export.save(program, path, extra_files={METADATA_KEY: metadata.model_dump_json()})


def read_metadata(path: Path) -> NetworkMetadata:
    """Read the metadata of a `.pt2` file, without running code in it.

    Raises: `AtrousError` for a damaged file, or one without metadata.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name for name in archive.namelist() if name.endswith(f"/extra/{METADATA_KEY}")]
            text = archive.read(names[0]).decode() if names else None
    except Exception as error:  # zipfile and its decompressors raise exceptions of many kinds for damaged files
        raise AtrousError(
            f"{path}: not a .pt2 file, or a damaged one ({describe_unexpected(error)}). Export the weights again."
        ) from error
    return NetworkMetadata.read(text, str(path))


class Runner:
    """Run a `.pt2` file. Loading one can run code in it: only for files that this process has written."""

    def __init__(self, path: Path) -> None:
        self._network = torch.export.load(path).module()

    def __call__(self, image: NDArray[np.generic]) -> NDArray[np.generic]:
        with torch.inference_mode():
            output: NDArray[np.generic] = self._network(torch.from_numpy(image)).numpy()
        return output
