"""Arrays in files that lie about their sizes."""

from __future__ import annotations

import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest

from atrous.files import DiskFullError, writing
from atrous.imaging.archives import ArchiveError, read_arrays, read_npy, write_npy
from tests.full_disk import file_size_limit


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


def npy_file(size: int, stored: int = 8) -> bytes:
    header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({size},), }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode() + bytes(stored)


@pytest.mark.parametrize("kind", ["stored", "compressed", "alone"])
def test_an_array_larger_than_its_file_is_not_allocated(kind: str, tmp_path: Path) -> None:
    path = tmp_path / ("a.npy" if kind == "alone" else "a.npz")
    if kind == "alone":
        path.write_bytes(npy_file(1 << 30))
    else:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED if kind == "stored" else zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("a.npy", npy_file(1 << 30))
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


@pytest.mark.parametrize("array", [np.arange(24, dtype=np.float16).reshape(2, 3, 4), np.zeros((0, 3)), np.eye(3).T])
def test_an_array_that_is_written_is_read(array: np.ndarray, tmp_path: Path) -> None:
    write_npy(tmp_path / "a.npy", array)
    read = read_npy(tmp_path / "a.npy")
    assert read.dtype == array.dtype
    np.testing.assert_array_equal(read, array)


def test_a_full_disk_is_named(tmp_path: Path) -> None:
    full = pytest.raises(DiskFullError, match="Free disk space")
    with file_size_limit(2000), full, writing(tmp_path / "a.npy") as temporary:
        write_npy(temporary, np.zeros(1000))
    assert list(tmp_path.iterdir()) == []
