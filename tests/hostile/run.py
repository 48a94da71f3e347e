"""Load many damaged files, one after the other, in a process that is watched and replaced when it hangs or dies."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[2]
SECONDS = 10
"""The time that a file may take."""
BYTES = 1 << 30
"""The memory that a file may take."""
START_SECONDS = 120
HARMLESS = ("error", "equal", "finite")


@dataclass
class Report:
    """The outcomes of all files, and the faults by the name of the file."""

    outcomes: Counter[str] = field(default_factory=Counter)
    faults: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0
    """The longest time of a file."""
    bytes: int = 0
    """The largest growth of the address space by a file."""

    def __str__(self) -> str:
        counts = ", ".join(f"{outcome} {count}" for outcome, count in sorted(self.outcomes.items()))
        return f"{counts}; longest {self.seconds:.2f} s, largest {self.bytes / 2**20:.0f} MiB"

    def add(self, name: str, result: dict) -> None:
        """Count one result; slow and large ones are faults."""
        self.seconds, self.bytes = max(self.seconds, result["seconds"]), max(self.bytes, result["bytes"])
        outcome = result["outcome"]
        if outcome in HARMLESS and result["bytes"] > BYTES:
            outcome = "memory"
        self.outcomes[outcome] += 1
        if outcome not in HARMLESS:
            self.faults[name] = f"{outcome}: {result['detail']} ({result['bytes'] >> 20} MiB)"


class _Worker:
    def __init__(self, valid: Path) -> None:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
        command = [sys.executable, "-m", "tests.hostile.worker"]
        self.process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        first = self.examine(valid, START_SECONDS)
        assert first["outcome"] == "equal", f"the undamaged file fails: {first}"

    def examine(self, path: Path, seconds: float = SECONDS) -> dict:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{path}\n")
        self.process.stdin.flush()
        if not select.select([self.process.stdout], [], [], seconds)[0]:
            return {"outcome": "hang", "detail": "", "seconds": seconds, "bytes": 0}
        line = self.process.stdout.readline()
        died = {"outcome": "crash", "detail": f"status {self.process.poll()}", "seconds": 0.0, "bytes": 0}
        return json.loads(line) if line else died

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()


def load_damaged(valid: Path, damaged: Iterable[tuple[str, Path]]) -> Report:
    """Load damaged files (description, path), which may be written one by one, and count what comes of them."""
    report, worker = Report(), _Worker(valid)
    try:
        for name, path in damaged:
            result = worker.examine(path)
            report.add(name, result)
            if result["outcome"] in ("hang", "crash") or result["bytes"] > BYTES:
                worker.close()
                worker = _Worker(valid)
    finally:
        worker.close()
    return report
