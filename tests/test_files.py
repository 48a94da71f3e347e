"""Files that are never half-written, and CSV files that grow row by row."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from atrous import AtrousError
from atrous.files import CsvFile, read_csv, write_json, writing


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "a.json"
    write_json(path, {"a": 1})

    def fail() -> None:
        with writing(path) as temporary:
            temporary.write_text("half")
            raise KeyError("stop")

    with pytest.raises(KeyError):
        fail()
    assert json.loads(path.read_text()) == {"a": 1}
    assert list(path.parent.iterdir()) == [path]


def test_a_csv_file_continues_with_the_rows_that_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    log = CsvFile(path, ("step", "loss"), keep=lambda row: True)
    for step in range(4):
        log.add({"step": step, "loss": step / 2})
    with path.open("a") as file:
        file.write("4")  # a row that a crash cut short
    assert [row["step"] for row in read_csv(path)] == ["0", "1", "2", "3"]
    CsvFile(path, ("step", "loss", "lr"), keep=lambda row: int(row["step"]) <= 1).add({"step": 2, "loss": 1, "lr": 3})
    rows = read_csv(path)
    assert [row["step"] for row in rows] == ["0", "1", "2"]
    assert [row["lr"] for row in rows] == ["", "", "3"]


def test_a_csv_file_that_cannot_be_written(tmp_path: Path) -> None:
    log = CsvFile(tmp_path / "folder" / "log.csv", ("step",), keep=lambda row: True)
    (tmp_path / "folder" / "log.csv").unlink()
    (tmp_path / "folder").rmdir()
    with pytest.raises(AtrousError, match="Cannot write"):
        log.add({"step": 1})


def test_no_file_has_no_rows(tmp_path: Path) -> None:
    assert read_csv(tmp_path / "nothing.csv") == []
