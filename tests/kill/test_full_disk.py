"""Commands on a disk that fills up at a random byte: one clear line, nothing half-written, and all of it with room.

Either no file may grow beyond a random size, or the folder of the command is a small file system with a random number
of free bytes, for which the tests have to run as root.
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("lightning_fabric", reason="needs the extra 'train'")
pytest.importorskip("matplotlib", reason="needs the extra 'train'")

from tests.kill.commands import COMMANDS, Outcome, Site
from tests.kill.processes import Ended, run_forked
from tests.kill.trial import Trial, differences

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes are forked")

FULL_DISKS = 20
"""Full disks of each command."""
ROOM = 256 << 20
REASONS = ("File too large", "No space left on device")


@contextmanager
def small_disk(folder: Path) -> Iterator[bool]:
    """Mount a file system in memory, unless that is not permitted; yield whether it is mounted."""
    folder.mkdir(parents=True, exist_ok=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={ROOM}", "tmpfs", str(folder)]
    mounted = os.geteuid() == 0 and subprocess.run(mount, capture_output=True, check=False).returncode == 0
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", "--lazy", str(folder)], check=True)


@contextmanager
def filled(folder: Path, free: int) -> Iterator[None]:
    """Fill the disk of a folder but for some bytes."""
    filler = folder / "filler"
    with filler.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, shutil.disk_usage(folder).free - free)
    try:
        yield
    finally:
        filler.unlink()


def total_size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def without_cache(outcome: Outcome) -> Outcome:
    """Leave out converted networks, which are not kept where there is no room."""
    return {name: content for name, content in outcome.items() if not name.startswith("cache/")}


def faults_of_failure(trial: Trial, ended: Ended, outcome: Outcome, expected: Outcome) -> list[str]:
    """Check the message of a command on a full disk, and the files that it left."""
    lines = [line for line in ended.output.splitlines() if line.startswith("error: ")]
    clear = len(lines) == 1 and any(reason in lines[0] for reason in REASONS) and "Traceback" not in ended.output
    faults = [] if ended.status == 2 and clear else [f"status {ended.status}: {ended.output[-1500:]}"]
    command = trial.command
    other = {name for name in outcome if name.startswith(command.kept or "\0")} | {*command.grows, *command.rewritten}
    complete = {**expected, **{name: outcome[name] for name in other & outcome.keys()}}
    faults += [line for line in differences(outcome, complete) if not line.endswith("missing")]
    return faults


def check_full_disks(trial: Trial, count: int) -> None:
    """Let the disk fill up again and again, then run the command with room, and compare the outcome."""
    failures, counts, chosen = [], Counter[str](), random.Random(trial.name)
    expected = without_cache(trial.undisturbed("reference")[1])
    disk = trial.folder / "disk"
    before = total_size(trial.task("before").folder)
    written = total_size(trial.folder / "reference") - before
    largest = max(path.stat().st_size for path in (trial.folder / "reference").rglob("*") if path.is_file())
    for number in range(count):
        fraction = chosen.random()
        with small_disk(disk) if number % 2 else nullcontext() as mounted:
            task = trial.task(f"disk/{number}")
            if mounted:
                description = f"{int(fraction * written):,} bytes free"
                with filled(disk, int(fraction * written)):
                    ended = run_forked(task)
            else:
                description = f"files of at most {int(fraction * largest):,} bytes"
                ended = run_forked(replace(task, file_bytes=int(fraction * largest)))
            outcome = without_cache(trial.outcome(task))
            faults = faults_of_failure(trial, ended, outcome, expected) if ended.status else []
            again = run_forked(trial.again(task))
            faults += [f"again: status {again.status}: {again.output[-1500:]}"] if again.status else []
            faults += [f"again: {line}" for line in differences(without_cache(trial.outcome(task)), expected)]
        print(f"{trial.name}, {description}: {', '.join(faults) or 'no fault'}", flush=True)
        counts["full" if ended.status else "had room"] += 1
        counts["faults"] += bool(faults)
        failures += [f"{trial.name}, {description}: {fault}" for fault in faults]
    print(f"{trial.name}: {written:,} bytes, {dict(counts)}")
    assert not failures, "\n".join([f"{trial.name}: {counts['faults']} of {count}", *failures[:12]])


@pytest.mark.parametrize("name", ["convert", "predict"])
def test_a_disk_that_fills_up(name: str, site: Site, tmp_path: Path) -> None:
    check_full_disks(Trial(name, COMMANDS[name], site, tmp_path), 2)


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_disks_that_fill_up_at_a_random_byte(name: str, site: Site, tmp_path: Path) -> None:
    check_full_disks(Trial(name, COMMANDS[name], site, tmp_path), FULL_DISKS)
