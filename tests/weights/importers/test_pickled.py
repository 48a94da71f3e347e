"""The survey of files of `torch.save`: placeholders for foreign classes, false sizes refused before memory is taken."""

from __future__ import annotations

import argparse
import collections
import pickle
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from atrous import AtrousError
from atrous.weights.importers.pickled import SurveyError, survey
from atrous.weights.importers.state_dict import read_state_dict

FORMATS = pytest.mark.parametrize("legacy", [False, True])


def write(path: Path, content: object, legacy: bool) -> Path:
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    return path


class History:
    """A class that the reader does not know."""

    def __init__(self) -> None:
        self.losses = [1.0, np.float64(2)]
        self.steps = np.arange(3)


@FORMATS
def test_tensors_of_all_kinds_are_read_beside_objects_of_other_classes(legacy: bool, tmp_path: Path) -> None:
    base = torch.randn(10)
    state = collections.OrderedDict(
        matrix=torch.randn(3, 4),
        parameter=torch.nn.Parameter(torch.ones(2, 2).half()),
        view=base[2:5],
        base=base,
        transposed=torch.randn(4, 6).t(),
        scalar=torch.tensor(7),
        empty=torch.zeros(0, 3),
        expanded=torch.ones(2, 1, dtype=torch.bool).expand(2, 5),
    )
    content = {"state_dict": state, "best": np.float64(0.5), "args": argparse.Namespace(lr=0.1), "history": History()}
    path = write(tmp_path / "a.pth", content, legacy)
    found = read_state_dict(path)
    assert found.keys() == state.keys()
    assert all(torch.equal(found[key], value) for key, value in state.items())
    assert "argparse.Namespace" in survey(path)


class Evil:
    def __reduce__(self):
        return print, ("this must never be printed",)


@FORMATS
def test_functions_that_a_file_names_are_not_called(legacy: bool, tmp_path: Path, capsys) -> None:
    path = write(tmp_path / "a.pth", {"state_dict": {"a": torch.ones(2)}, "evil": Evil()}, legacy)
    assert read_state_dict(path)["a"].tolist() == [1, 1]
    with pytest.raises(AtrousError, match="expected a state dict"):
        read_state_dict(write(tmp_path / "b.pth", {"a": Evil()}, legacy))
    assert "never" not in capsys.readouterr().out


def replace_in_pickle(path: Path, old: bytes, new: bytes) -> None:
    """Replace bytes of the pickle in a file, which stays valid otherwise."""
    if not zipfile.is_zipfile(path):
        content = path.read_bytes()
        assert content.count(old) == 1
        path.write_bytes(content.replace(old, new))
        return
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in parts.items():
            if name.endswith("data.pkl"):
                assert content.count(old) == 1
                content = content.replace(old, new)
            archive.writestr(name, content)


COUNT = b"J" + (70_001).to_bytes(4, "little")
HUGE = b"J" + (2_000_000_000).to_bytes(4, "little")


@FORMATS
def test_a_storage_of_a_false_size_is_refused(legacy: bool, tmp_path: Path) -> None:
    path = write(tmp_path / "a.pth", {"a": torch.zeros(70_001)[:9]}, legacy)
    survey(path)
    replace_in_pickle(path, COUNT, HUGE)
    with pytest.raises(SurveyError, match=r"another size|but the file has"):
        survey(path)
    with pytest.raises(AtrousError, match="truncated or altered"):
        read_state_dict(path)


@FORMATS
def test_a_tensor_beyond_its_storage_is_refused(legacy: bool, tmp_path: Path) -> None:
    path = write(tmp_path / "a.pth", {"a": torch.zeros(70_001 * 2)[:70_001]}, legacy)
    survey(path)
    replace_in_pickle(path, COUNT, HUGE)
    with pytest.raises(SurveyError, match=r"a tensor of the shape \(2000000000,\) in a storage of 140002 numbers"):
        survey(path)


def test_a_text_of_a_false_length_takes_no_memory(tmp_path: Path) -> None:
    path = write(tmp_path / "a.pth", {"unmistakable": torch.zeros(1)}, True)
    replace_in_pickle(path, b"X\x0c\0\0\0unmistakable", b"X\xff\xff\xff\x7funmistakable")
    with pytest.raises(SurveyError, match="a text of 2147483647 bytes in a file of"):
        survey(path)


def test_a_compressed_archive_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.pth", {"a": torch.zeros(1000)}, False)
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
    with pytest.raises(SurveyError, match="compressed"):
        survey(path)


def test_an_array_of_bytes_of_any_size_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    path.write_bytes(pickle.dumps({"a": bytearray(10)}, protocol=2))
    with pytest.raises(SurveyError, match="bytearray"):
        survey(path)


@pytest.mark.parametrize("value", [torch.zeros(2, 2).to_sparse(), torch.zeros(2, dtype=torch.complex64)])
def test_tensors_of_other_layouts_are_refused(value: torch.Tensor, tmp_path: Path) -> None:
    with pytest.raises(AtrousError):
        read_state_dict(write(tmp_path / "a.pth", {"a": value}, False))


def test_altered_numbers_differ_from_their_checksum(tmp_path: Path) -> None:
    path = write(tmp_path / "a.pth", {"a": torch.arange(1000.0)}, False)
    content = path.read_bytes()
    path.write_bytes(content.replace(np.float32(500).tobytes(), np.float32(501).tobytes(), 1))
    with pytest.raises(AtrousError, match="the checksum of a/data/0 differs"):
        read_state_dict(path)


def test_files_without_checksums_are_read(tmp_path: Path) -> None:
    torch.serialization.set_crc32_options(False)
    try:
        path = write(tmp_path / "a.pth", {"a": torch.arange(5.0)}, False)
    finally:
        torch.serialization.set_crc32_options(True)
    assert read_state_dict(path)["a"].tolist() == [0, 1, 2, 3, 4]


def test_an_archive_behind_a_file_of_early_versions_does_not_stand_for_it(tmp_path: Path) -> None:
    """torch tells the two formats apart by the first bytes."""
    path = write(tmp_path / "a.pth", {"a": torch.zeros(70_001)[:9]}, True)
    replace_in_pickle(path, COUNT, HUGE)
    harmless = write(tmp_path / "b.pth", {"a": torch.zeros(1)}, False)
    path.write_bytes(path.read_bytes() + harmless.read_bytes())
    with pytest.raises(SurveyError, match=r"of 2000000000 numbers|but the file has"):
        survey(path)


@pytest.mark.parametrize("name", ["a/data/0", "a/DATA/0"])
def test_parts_of_the_same_name_are_refused(tmp_path: Path, name: str) -> None:
    """torch finds parts whatever the case of their names, and the first of several."""
    path = write(tmp_path / "a.pth", {"a": torch.zeros(100)}, False)
    with zipfile.ZipFile(path) as archive:
        parts = {part: archive.read(part) for part in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of zipfile, which sees the duplicate
        archive.writestr(name, b"\0")
        for part, content in parts.items():
            archive.writestr(part, content)
    with pytest.raises(SurveyError, match="several parts"):
        survey(path)
