"""Damaged files of weights: one error in one line, or a network whose tensors are intact, in little time and memory.

A failure names its kind and seed, from which `damaged_files` writes the same file again.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hostile.files import KINDS
from tests.hostile.mutate import mutate
from tests.hostile.run import load_damaged

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="memory is measured by /proc")

SOME, MANY = 60, 1000


def damaged_files(kind: str, valid: Path, count: int) -> Iterator[tuple[str, Path]]:
    """Write damaged files one after the other, each with its seed and what was done to it."""
    entry = KINDS[kind]
    target = valid.with_suffix(entry.damaged) if entry.damaged else valid
    folder = valid.parent / "damaged"
    folder.mkdir()
    for file in valid.parent.iterdir():
        if file.is_file():
            (folder / file.name).symlink_to(file)
    content = entry.unwrap(target.read_bytes())
    spots = entry.spots(content)
    damaged = folder / target.name
    damaged.unlink()
    for seed in range(count):
        data, description = mutate(content, f"{kind} {seed}", spots)
        damaged.write_bytes(entry.wrap(data))
        yield f"{kind}, seed {seed}, {description}", folder / valid.name


def check(kind: str, folder: Path, count: int) -> None:
    valid = KINDS[kind].write(folder)
    report = load_damaged(valid, damaged_files(kind, valid, count))
    print(f"{kind}: {report}")
    shown = "\n".join(f"{name}: {fault}" for name, fault in list(report.faults.items())[:5])
    assert not report.faults, f"{len(report.faults)} of {count} files: {report}\n{shown}"
    assert sum(report.outcomes.values()) == count


@pytest.mark.parametrize("kind", KINDS)
def test_damaged_weights_are_refused_in_one_line_or_intact(kind: str, tmp_path: Path) -> None:
    check(kind, tmp_path, SOME)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_many_damaged_weights_are_refused_in_one_line_or_intact(kind: str, tmp_path: Path) -> None:
    check(kind, tmp_path, MANY)
