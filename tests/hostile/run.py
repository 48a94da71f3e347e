"""Damage files by hypothesis, and read them in a process that is watched and replaced when it hangs or dies."""

from __future__ import annotations

import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import hypothesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.hostile.kinds import Kind
from tests.hostile.mutate import mutate

ROOT = Path(__file__).parents[2]
SECONDS = 10
"""The processor time that a file may take."""
HANG_SECONDS = 60
"""The time after which a file hangs, on a machine that may have other work."""
BYTES = 1 << 30
"""The memory that a file may take."""
START_SECONDS = 180
HARMLESS = ("error", "fine", "equal", "finite")
REPRODUCIBLE = ("traceback", "long message", "altered", "exit code")
"""Faults that are quick to repeat, so that hypothesis finds the smallest damage that causes them."""


@dataclass
class Report:
    """The outcomes of all files, and the faults by what was done to the file."""

    outcomes: Counter[str] = field(default_factory=Counter)
    faults: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0
    """The longest time of a file."""
    bytes: int = 0
    """The largest growth of memory by a file."""

    def __str__(self) -> str:
        counts = ", ".join(f"{outcome} {count}" for outcome, count in sorted(self.outcomes.items()))
        return f"{counts}; longest {self.seconds:.2f} s, largest {self.bytes / 2**20:.0f} MiB"

    def add(self, name: str, result: dict[str, Any]) -> str:
        """Count one result; large and slow ones are faults."""
        self.seconds, self.bytes = max(self.seconds, result["seconds"]), max(self.bytes, result["bytes"])
        outcome: str = result["outcome"]
        if outcome in HARMLESS and result["bytes"] > BYTES:
            outcome = "memory"
        if outcome in HARMLESS and result["seconds"] > SECONDS:
            outcome = "slow"
        self.outcomes[outcome] += 1
        if outcome not in HARMLESS:
            self.faults[name] = f"{outcome}: {result['detail']} ({result['bytes'] >> 20} MiB)"
        return outcome


class Worker:
    """The process that reads files, for one kind after the other."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="atrous-hostile-"))
        self._process: subprocess.Popen[str] | None = None

    def examine(
        self, kind: Kind, path: Path, valid: Path, *, undamaged: bool = False, command: bool = True
    ) -> dict[str, Any]:
        """Read a file by the reader and the command of its kind; `valid` is an undamaged one."""
        out = self.folder / "out"
        shutil.rmtree(out, ignore_errors=True)
        places = {"path": path, "folder": path.parent, "out": out}
        request = {
            "path": str(path),
            "valid": str(valid),
            "undamaged": undamaged,
            "reader": kind.reader,
            "command": [argument.format(**places) for argument in kind.command] if command else [],
        }
        seconds = START_SECONDS if undamaged else HANG_SECONDS
        result = self._ask(request, seconds)
        if result["outcome"] in ("hang", "crash") or result["bytes"] > BYTES:
            self.stop()
            if not undamaged:
                self.examine(kind, valid, valid, undamaged=True)  # imports what it needs before time is measured
        return result

    def _ask(self, request: dict[str, Any], seconds: float) -> dict[str, Any]:
        process = self._process = self._process or self._start()
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(f"{json.dumps(request)}\n")
        process.stdin.flush()
        if not select.select([process.stdout], [], [], seconds)[0]:
            return {"outcome": "hang", "detail": "", "seconds": seconds, "bytes": 0}
        line = process.stdout.readline()
        died = (
            {"outcome": "crash", "detail": f"status {process.wait()}", "seconds": 0.0, "bytes": 0} if not line else {}
        )
        return died or json.loads(line)

    def _start(self) -> subprocess.Popen[str]:
        environment = {
            **os.environ,
            "ATROUS_CACHE": str(self.folder / "cache"),
            "ATROUS_MAX_PIXELS": str(1 << 24),  # below the limit, memory is that of the pixels, whether they lie or not
            "ATROUS_OFFLINE": "1",
            "COLUMNS": "200",
            "MALLOC_ARENA_MAX": "2",  # an arena of each thread counts as 64 MiB of address space
            "OMP_NUM_THREADS": "1",
            "OPENCV_LOG_LEVEL": "OFF",
            "OPENCV_FFMPEG_LOGLEVEL": "-8",
            "PYTHONWARNINGS": "ignore",
        }
        return subprocess.Popen(
            [sys.executable, "-m", "tests.hostile.worker"],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def stop(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None

    def close(self) -> None:
        """End the process and remove its files."""
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)


def survey(
    worker: Worker, name: str, kind: Kind, folder: Path, count: int, seed: int, every: int = 1
) -> tuple[Report, str]:
    """Damage a kind of file in `count` ways; return what came of them, and the smallest damage behind the first fault.

    The files are those of the seed: the same for the same version of hypothesis. The command reads one of `every`.
    """
    path = kind.write(_new(folder / "damaged"))
    target = kind.target(path, folder / "damaged")
    content = kind.unwrap(target.read_bytes())
    shutil.copytree(folder / "damaged", folder / "valid")
    valid = folder / "valid" / path.relative_to(folder / "damaged")
    first = worker.examine(kind, path, valid, undamaged=True)
    assert first["outcome"] in ("fine", "equal"), f"{name}: the undamaged file fails: {first}"
    spots = kind.spots(content)

    def damage(draw: Random) -> str:
        data, description = mutate(content, draw, spots, text=kind.text)
        target.write_bytes(kind.wrap(data))
        return description

    report = Report()

    def count_one(draw: Random) -> None:
        description = damage(draw)
        command = sum(report.outcomes.values()) % (every if kind.reader else 1) == 0
        report.add(f"{name}, seed {seed}, {description}", worker.examine(kind, path, valid, command=command))

    _draw(count_one, count, seed)
    smallest = _shrink(worker, kind, damage, path, valid, count, seed) if report.faults else ""
    return report, smallest


def _shrink(
    worker: Worker, kind: Kind, damage: Callable[[Random], str], path: Path, valid: Path, count: int, seed: int
) -> str:
    """Repeat the damages of a seed up to the first fault, and let hypothesis find the smallest such damage."""
    last = ""

    def fail(draw: Random) -> None:
        nonlocal last
        description = damage(draw)
        result = worker.examine(kind, path, valid)
        if result["outcome"] in REPRODUCIBLE:
            last = f"{description}\n{result['outcome']}: {result['detail']}"
            raise AssertionError(result["outcome"])

    try:
        _draw(fail, count, seed)
    except AssertionError:
        return last
    return ""


def _draw(examine: Callable[[Random], None], count: int, seed: int) -> None:
    """Call a function with `count` generators of random numbers, which hypothesis draws from a seed."""

    @settings(
        max_examples=count,
        database=None,
        deadline=None,
        derandomize=False,
        phases=[Phase.generate, Phase.shrink],
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
    )
    @hypothesis.seed(seed)
    @given(st.randoms(use_true_random=False))
    def each(draw: Random) -> None:
        examine(draw)

    each()


def _new(folder: Path) -> Path:
    folder.mkdir(parents=True)
    return folder
