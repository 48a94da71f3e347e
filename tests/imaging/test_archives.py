"""Arrays in files that lie about their sizes."""

from __future__ import annotations

import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest

from atrous.imaging.archives import ArchiveError, read_arrays, read_npy


@pytest.mark.parametrize("compressed", [False, True])
def test_arrays_that_numpy_writes(compressed: bool, tmp_path: Path) -> None:
    arrays = {"a": np.arange(6.0).reshape(2, 3), "b": np.array(["x", "äö"]), "c": np.array("text")}
    (np.savez_compressed if compressed else np.savez)(tmp_path / "a.npz", **arrays)
    for name, read in zip("ba", read_arrays(tmp_path / "a.npz", "b", "a"), strict=True):
        np.testing.assert_array_equal(read, arrays[name])
    with pytest.raises(ArchiveError, match=r"no item named 'd\.npy'"):
        read_arrays(tmp_path / "a.npz", "d")
    np.savez(tmp_path / "o.npz", a=np.array([None]))
    with pytest.raises(ArchiveError, match="Object arrays cannot be loaded"):
        read_arrays(tmp_path / "o.npz", "a")


def write_npy(size: int, stored: int = 8) -> bytes:
    header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({size},), }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode() + bytes(stored)


@pytest.mark.parametrize("kind", ["stored", "compressed", "alone"])
def test_an_array_larger_than_its_file_is_not_allocated(kind: str, tmp_path: Path) -> None:
    path = tmp_path / ("a.npy" if kind == "alone" else "a.npz")
    if kind == "alone":
        path.write_bytes(write_npy(1 << 30))
    else:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED if kind == "stored" else zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("a.npy", write_npy(1 << 30))
    tracemalloc.start()
    try:
        with pytest.raises(ArchiveError):
            read_npy(path) if kind == "alone" else read_arrays(path, "a")
        assert tracemalloc.get_traced_memory()[1] < 10 << 20
    finally:
        tracemalloc.stop()


def test_an_archive_is_not_one_array(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", a=np.ones(3))
    with pytest.raises(ArchiveError, match="several arrays"):
        read_npy(tmp_path / "a.npz")
