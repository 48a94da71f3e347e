"""The log of a CRF search: what is written is read back, whole lines only, for the same settings only."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from atrous.errors import AtrousError
from atrous.evaluation.confusion import ConfusionMatrix
from atrous.evaluation.search_log import SearchLog
from atrous.files import DiskFullError
from tests.full_disk import file_size_limit


def matrix(*truth: int) -> ConfusionMatrix:
    confusion = ConfusionMatrix(3)
    confusion.update(np.array([truth]), np.zeros((1, len(truth)), int))
    return confusion


def test_matrices_are_read_back(tmp_path: Path) -> None:
    path = tmp_path / "runs" / "log.jsonl"
    with SearchLog(path, {"w2": 3}) as log:
        log.add(("a",), matrix(0, 1))
        log.add(("a", 1.0, 2.0, 3.0), matrix(2, 2))
        log.add(("a",), matrix(1, 1))  # known: not written again
    assert len(path.read_text().splitlines()) == 3
    with SearchLog(path, {"w2": 3}) as log:
        assert set(log.matrices) == {("a",), ("a", 1.0, 2.0, 3.0)}
        np.testing.assert_array_equal(log.matrices[("a",)].counts, matrix(0, 1).counts)


def test_a_line_cut_short_is_removed(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    with SearchLog(path, {}) as log:
        log.add(("a",), matrix(0))
        log.add(("b",), matrix(0))
    path.write_text(path.read_text()[:-9])
    with SearchLog(path, {}) as log:
        assert set(log.matrices) == {("a",)}
        log.add(("b",), matrix(0))
    with SearchLog(path, {}) as log:
        assert set(log.matrices) == {("a",), ("b",)}


def test_errors(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    with SearchLog(path, {"iterations": 5}):
        pass
    with (
        pytest.raises(AtrousError, match=r"belongs to a search with .*5.*this one has .*10"),
        SearchLog(path, {"iterations": 10}),
    ):
        pass
    path.write_text("not json\n")
    with pytest.raises(AtrousError, match="is not the log of a CRF search"), SearchLog(path, {}):
        pass


@pytest.mark.parametrize(
    "row", ['{"classes": 99999999, "counts": [], "key": ["a"]}', "[" * 50_000, '{"classes": null}']
)
def test_damaged_rows(row: str, tmp_path: Path) -> None:
    """A matrix of 99999999 classes would take 71 PiB."""
    path = tmp_path / "log.jsonl"
    path.write_text(f'{{"settings": {{}}}}\n{row}\n')
    with pytest.raises(AtrousError, match="is not the log of a CRF search"), SearchLog(path, {}):
        pass


def test_without_a_file() -> None:
    with SearchLog(None, {}) as log:
        log.add(("a",), matrix(0))
        assert ("a",) in log.matrices


def test_a_full_disk_leaves_complete_lines(tmp_path: Path) -> None:
    path = tmp_path / "search.jsonl"
    with SearchLog(path, {"w2": 3}) as log:
        log.add(("a",), matrix(0))
        length = path.stat().st_size
        with file_size_limit(length + 20), pytest.raises(DiskFullError, match=r"Cannot write .*search\.jsonl: .* Free"):
            log.add(("b",), matrix(1))
        assert path.stat().st_size == length
        log.add(("c",), matrix(2))
    with SearchLog(path, {"w2": 3}) as log:
        assert set(log.matrices) == {("a",), ("c",)}
