"""A command on trial: its undisturbed outcome, and what differs from it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from tests.kill.commands import KilledCommand, Outcome, Site, read_outcome
from tests.kill.processes import Ended, run_forked
from tests.kill.worker import Task


@dataclass
class Trial:
    """A command to be killed: `start` is called before each attempt, `collect` reads what is not in its folder."""

    name: str
    command: KilledCommand
    site: Site
    folder: Path
    start: Callable[[], None] = lambda: None
    collect: Callable[[], Outcome] = dict

    def task(self, name: str) -> Task:
        """Prepare a folder for the command."""
        self.start()
        folder, output = self.folder / name, self.folder / f"{name.replace('/', '_')}.txt"
        variables = self.command.prepare(self.site, folder)
        return Task(self.command.arguments(self.site), folder, output, variables, self.command.settings)

    def outcome(self, task: Task) -> Outcome:
        return {**read_outcome(task.folder), **self.collect()}

    def undisturbed(self, name: str) -> tuple[Ended, Outcome]:
        """Run the command to its end."""
        ended = run_forked(task := self.task(name))
        assert ended.status == 0, ended.output
        return ended, self.outcome(task)

    def again(self, task: Task) -> Task:
        """The command as it is typed after a kill."""
        return replace(task, arguments=self.command.again(self.site, task.folder), change=None, file_bytes=None)


def differences(outcome: Outcome, expected: Outcome) -> list[str]:
    """Describe the files that are missing, left over, or of other content."""
    return [
        f"{name}: {'missing' if name not in outcome else 'left over' if name not in expected else 'differs'}"
        for name in sorted(outcome.keys() | expected.keys())
        if name not in outcome or name not in expected or outcome[name] != expected[name]
    ]
