"""Commands that are killed at random times and started again: the outcome is that of an undisturbed command.

Nothing is half-written under its final name, nothing is written twice, and no temporary files stay. Half of the kills
are at a change in the file system, counted from the start, exactly before it or up to some milliseconds later. Other
kills are at random times: some of processes that were started by the real command line, the rest of forks that have
imported their libraries before. A failure names its seed, from which the same kill is chosen again.
"""

from __future__ import annotations

import random
import shutil
import signal
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pytest

pytest.importorskip("lightning_fabric", reason="needs the extra 'train'")
pytest.importorskip("matplotlib", reason="needs the extra 'train'")

from tests.hub_server import TOKEN, Hub
from tests.kill.commands import COMMANDS, KilledCommand, Outcome, Site
from tests.kill.processes import Ended, run_command, run_forked
from tests.kill.trial import Trial, differences
from tests.kill.worker import Task

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes are forked")

KILLS, REAL_KILLS = 50, 10
"""Kills of each command, and those among them of processes that were started by the real command line."""
KILLED = -signal.SIGKILL


class Kill(NamedTuple):
    """When a process is killed: at a change in the file system, or after a fraction of its time."""

    real: bool
    change: int | None
    fraction: float
    delay: float | None

    def __str__(self) -> str:
        """Describe it for the message of a failure."""
        if self.change is None:
            return f"after {self.fraction:.0%} of the time of {'the command line' if self.real else 'a fork'}"
        return f"at change {self.change}" + ("" if self.delay is None else f" + {1000 * self.delay:.1f} ms")


def choose_kills(seed: str, changes: int, count: int, real: int) -> Iterator[Kill]:
    """Choose random times; of those in forks, two of three are at a change, where something is being written."""
    chosen = random.Random(seed)
    for number in range(count):
        fraction, change, delay = (
            chosen.random(),
            chosen.randrange(changes),
            chosen.choice((None, chosen.random() / 200)),
        )
        if number >= count - real:
            yield Kill(True, None, fraction, None)
        elif number % 3:
            yield Kill(False, change, fraction, delay)
        else:
            yield Kill(False, None, fraction, None)


def kill(task: Task, when: Kill, seconds: float) -> Ended:
    """Run a task and kill it; `seconds` is the time that it takes undisturbed."""
    if when.real:
        return run_command(task, kill_after=when.fraction * seconds)
    if when.change is None:
        return run_forked(task, kill_after=when.fraction * seconds)
    return run_forked(replace(task, change=when.change, tell=when.delay is not None), kill_after=when.delay)


def check_kills(trial: Trial, count: int, real: int) -> Counter[str]:
    """Kill a command again and again, each time in a new folder, and compare the outcome of the next start."""
    failures, counts = [], Counter[str]()
    reference, expected = trial.undisturbed("reference")
    changed = differences(trial.undisturbed("reference2")[1], expected)
    assert not changed, f"undisturbed outcomes differ: {changed}"
    real_seconds = run_command(trial.task("timed")).seconds if real else 0.0
    for number, when in enumerate(choose_kills(trial.name, reference.changes, count, real)):
        task = trial.task(str(number))
        ended = kill(task, when, real_seconds if when.real else reference.seconds)
        counts["killed" if ended.status == KILLED else "ended before"] += 1
        ended = (run_command if when.real else run_forked)(trial.again(task))
        faults = [f"status {ended.status}: {ended.output}"] if ended.status else []
        faults += differences(trial.outcome(task), expected)
        counts["faults"] += bool(faults)
        failures += [f"{trial.name} killed {when}: {fault}" for fault in faults]
        shutil.rmtree(task.folder)
        print(f"{trial.name} killed {when}: {', '.join(faults) or 'no fault'}", flush=True)
    print(f"{trial.name}: {reference.changes} changes, {dict(counts)}")
    assert not failures, "\n".join([f"{trial.name}: {counts['faults']} of {count}", *failures[:12]])
    return counts


def check_many_kills(trial: Trial) -> None:
    """Kill a command many times; most attempts have to end by the kill."""
    counts = check_kills(trial, KILLS, REAL_KILLS)
    assert counts["killed"] >= KILLS // 2


@pytest.mark.parametrize("name", ["convert", "predict"])
def test_a_killed_command_is_started_again(name: str, site: Site, tmp_path: Path) -> None:
    check_kills(Trial(name, COMMANDS[name], site, tmp_path), 2, 0)


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_commands_killed_at_random_times(name: str, site: Site, tmp_path: Path) -> None:
    check_many_kills(Trial(name, COMMANDS[name], site, tmp_path))


@pytest.mark.slow
def test_a_push_killed_at_random_times(site: Site, tmp_path: Path, hub: Hub) -> None:
    """The repository has all files of one commit, or none."""

    def collect() -> Outcome:
        repository = hub.repositories["me/small"]
        return {f"hub/{name}": content for name, content in repository.commits[repository.refs["main"]].items()}

    command = KilledCommand(
        lambda site: ("push", str(site.weights), "me/small"),
        environment={"HF_ENDPOINT": hub.url, "HF_TOKEN": TOKEN, "HF_HUB_DISABLE_XET": "1"},
        settings=(("huggingface_hub.constants", "HF_HUB_DISABLE_XET", True),),
    )
    check_many_kills(Trial("push", command, site, tmp_path, hub.repositories.clear, collect))


@pytest.mark.slow
def test_a_download_killed_at_random_times(site: Site, tmp_path: Path, hub: Hub) -> None:
    hub.create("me/small", {"model.safetensors": site.weights.read_bytes()})
    hub.pause = 0.002
    command = KilledCommand(
        lambda site: ("info", "hf://me/small"),
        environment={"HF_ENDPOINT": hub.url},
        settings=(("atrous.weights.download", "CHUNK", 4096),),
    )
    check_many_kills(Trial("download", command, site, tmp_path))
