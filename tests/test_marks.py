"""Marks in files of every kind, and the files that they protect."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from atrous.errors import AtrousError
from atrous.marks import Mark, SealedWriter, check_replaceable, read_mark

MARK = Mark("predict", {"image": "1f", "state": "aa"})


def test_a_png_is_read_as_before(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (40, 50, 3), np.uint8)
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, format="PNG")
    (tmp_path / "a.png").write_bytes(MARK.in_png(content.getvalue()))
    with Image.open(tmp_path / "a.png") as image:
        image.verify()
    with Image.open(tmp_path / "a.png") as image:
        assert image.text["Software"] == str(MARK)
        np.testing.assert_array_equal(np.asarray(image), pixels)
    assert read_mark(tmp_path / "a.png") == MARK


def test_an_array_is_read_as_before(tmp_path: Path) -> None:
    values = np.arange(5000.0)
    np.save(tmp_path / "a.npy", values)
    MARK.append_to(tmp_path / "a.npy")
    np.testing.assert_array_equal(np.load(tmp_path / "a.npy", allow_pickle=False), values)
    assert read_mark(tmp_path / "a.npy") == MARK


@pytest.mark.parametrize("content", [b"", b"written by atrous", b"written by atrous predict image=1f"])
def test_other_files_have_no_mark(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a").write_bytes(content)
    assert read_mark(tmp_path / "a") is None
    assert read_mark(tmp_path / "missing") is None
    assert read_mark(tmp_path) is None


def test_a_sealed_mark_is_void_once_the_file_was_edited(tmp_path: Path) -> None:
    path, padding = tmp_path / "a", b"x" * 5000
    content = str(MARK).encode() + padding + b"mine" + padding
    path.write_bytes(content)
    assert read_mark(path) == MARK  # of an earlier version, without a seal
    path.write_bytes(MARK.seal(content))
    assert read_mark(path) == MARK
    path.write_bytes(MARK.seal(content).replace(b"mine", b"edit"))
    assert read_mark(path) is None
    with pytest.raises(AtrousError, match="is not a file of `atrous predict`, or was edited: choose"):
        check_replaceable([path], MARK, overwrite=False)


def test_a_file_written_in_pieces_is_sealed(tmp_path: Path) -> None:
    path = tmp_path / "a"
    with path.open("wb") as file:
        pieces = SealedWriter(file, MARK)
        for number in range(100_000):
            pieces.write(f"{number} ü\n")
        pieces.finish(f"the end, {MARK}\n")
    content = path.read_bytes()
    assert read_mark(path) == MARK
    assert content == MARK.seal(content.replace(content[content.index(b" content=") :], b";\n"))
    path.write_bytes(content.replace(b"99998", b"99997"))
    assert read_mark(path) is None


def test_only_files_of_the_same_command_are_replaced(tmp_path: Path) -> None:
    own, other, plain = (tmp_path / name for name in ("own", "other", "plain"))
    own.write_text(f"<!-- {Mark('predict')} -->")
    other.write_text(f"<!-- {Mark('crf')} -->")
    plain.write_text("mine")
    check_replaceable([own, tmp_path / "missing"], MARK, overwrite=False)
    for path in (other, plain, tmp_path):
        with pytest.raises(AtrousError, match=r"is not a file of `atrous predict`.*--overwrite"):
            check_replaceable([path], MARK, overwrite=False)
        check_replaceable([path], MARK, overwrite=True)
    with pytest.raises(AtrousError, match="own exists: choose"):
        check_replaceable([own], None, overwrite=False)
