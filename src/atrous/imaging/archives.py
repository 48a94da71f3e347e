"""Read and write NumPy arrays (.npy), read archives of them (.npz); sizes are checked before memory is allocated."""

from __future__ import annotations

import math
import zipfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from atrous.errors import describe_unexpected

_RATIO = 1032
"""The largest factor by which deflate compresses."""


class ArchiveError(ValueError):
    """An archive that is damaged, or lacks an array; the message is a phrase in one line."""


def read_arrays(path: Path, *names: str) -> list[NDArray[np.generic]]:
    """Read arrays of an archive by their names.

    Raises: `ArchiveError`; `FileNotFoundError`; `MemoryError` for arrays that memory does not hold.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return [_read_array(archive, name) for name in names]
    except (FileNotFoundError, MemoryError, ArchiveError):
        raise
    except Exception as error:  # NumPy and zipfile raise exceptions of many kinds for damaged files
        raise ArchiveError(describe_unexpected(error)) from error


def read_npy(path: Path) -> NDArray[np.generic]:
    """Read the array of a .npy file.

    Raises: `ArchiveError`; `MemoryError` for an array that memory does not hold.
    """
    try:
        # Mapping the file compares the size in its header with its own before memory is allocated.
        array = np.load(path, allow_pickle=False, mmap_mode="r")
        if isinstance(array, np.ndarray):
            return np.array(array)
    except MemoryError:
        raise
    except Exception as error:  # NumPy's reader of headers raises exceptions of many kinds
        raise ArchiveError(describe_unexpected(error)) from error
    raise ArchiveError("an archive of several arrays, expected one array (classes, height, width)")


def write_npy(path: Path, array: NDArray[np.generic]) -> None:
    """Write an array to a .npy file; a full disk is an `OSError` that says so, unlike that of `numpy.save`."""
    with path.open("wb") as file:
        np.save(SimpleNamespace(write=file.write), array)  # a file would get `tofile`


def _read_array(archive: zipfile.ZipFile, name: str) -> NDArray[np.generic]:
    entry = archive.getinfo(f"{name}.npy")
    if entry.file_size > entry.compress_size * _RATIO:
        raise ArchiveError(f"{name} claims {entry.file_size} bytes, packed to {entry.compress_size}")
    with archive.open(entry) as file:
        version = npy.read_magic(file)
        header = npy.read_array_header_1_0(file) if version == (1, 0) else npy.read_array_header_2_0(file)
    shape, _, dtype = header
    if math.prod(shape) * dtype.itemsize > entry.file_size:
        raise ArchiveError(f"{name} claims to be {dtype} of shape {shape} in {entry.file_size} bytes")
    with archive.open(entry) as file:
        array: NDArray[np.generic] = npy.read_array(file, allow_pickle=False)
    return array
