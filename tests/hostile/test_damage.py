"""Damaged files of every kind that is read: one error in one line, or a content, in little time and memory.

The damages are drawn by hypothesis from a seed, which `pytest -s` prints and `ATROUS_HOSTILE_SEED` sets. All are tried;
then the smallest one with the fault of the first is searched for and shown.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hostile.data_files import DATA_FILES
from tests.hostile.files import WEIGHTS
from tests.hostile.kinds import Kind
from tests.hostile.pictures import PICTURES
from tests.hostile.run import Worker, survey
from tests.hostile.run_files import RUN_FILES

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="memory is measured by /proc")

KINDS: dict[str, Kind] = {**WEIGHTS, **PICTURES, **DATA_FILES, **RUN_FILES}
SEED = int(os.environ.get("ATROUS_HOSTILE_SEED", "0"))


@pytest.fixture(scope="session")
def worker() -> Iterator[Worker]:
    worker = Worker()
    yield worker
    worker.close()


def check(worker: Worker, name: str, folder: Path, count: int, seed: int, every: int = 1) -> None:
    report, smallest = survey(worker, name, KINDS[name], folder, count, seed, every)
    tried = sum(report.outcomes.values())
    print(f"{name}: seed {seed}, {tried} tried, {len(report.faults)} failed: {report}")
    shown = "\n".join(f"{fault}: {detail}" for fault, detail in list(report.faults.items())[:5])
    assert not report.faults, f"{len(report.faults)} of {tried} files: {report}\n{shown}\nThe smallest: {smallest}"
    assert tried >= count


@pytest.mark.parametrize("name", KINDS)
def test_damaged_files_are_refused_in_one_line_or_read(name: str, worker: Worker, tmp_path: Path) -> None:
    check(worker, name, tmp_path, KINDS[name].some, SEED, KINDS[name].every)


@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS)
def test_many_damaged_files_are_refused_in_one_line_or_read(name: str, worker: Worker, tmp_path: Path) -> None:
    check(worker, name, tmp_path, KINDS[name].many, SEED + 1, max(1, KINDS[name].every // 10))
