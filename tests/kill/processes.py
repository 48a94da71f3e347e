"""Start commands as processes, kill them, and start them again."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple

from tests.kill.worker import Task, run

SECONDS = 600
"""The time that a command may take, the compilation of the CRF by numba included."""
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["tests.kill.worker"])


class Ended(NamedTuple):
    """The end of a process: its status (negative for a signal), the changes it made, its seconds and its output."""

    status: int
    changes: int
    seconds: float
    output: str


def run_forked(task: Task, *, kill_after: float | None = None) -> Ended:
    """Run a task in a fork, and kill it some seconds after its start or, if it tells its parent, after a change."""
    receiver, sender = CONTEXT.Pipe(duplex=False)
    task.output.unlink(missing_ok=True)
    process = CONTEXT.Process(target=run, args=(task, sender))
    start = time.monotonic()
    process.start()
    sender.close()
    status, changes = 0, 0
    try:
        begun = not task.tell or (receiver.poll(SECONDS) and _receive(receiver) == b"begun")
        if kill_after is not None and begun:
            time.sleep(kill_after)
            process.kill()
        process.join(SECONDS)
        assert process.exitcode is not None, f"hangs: {task}"
        while receiver.poll() and (message := _receive(receiver)):
            if message != b"begun":
                status, changes = map(int, message.split())
    finally:
        process.kill()
        process.join()
        receiver.close()
    return Ended(process.exitcode or status, changes, time.monotonic() - start, _text(task.output))


def _receive(receiver: Connection) -> bytes:
    try:
        return receiver.recv_bytes()
    except EOFError:
        return b""


def run_command(task: Task, *, kill_after: float | None = None) -> Ended:
    """Run the command line in a new process, and kill it some seconds after its start."""
    start = time.monotonic()
    with task.output.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "atrous", *task.arguments],
            cwd=task.folder,
            env={**os.environ, **task.environment},
            stdout=file,
            stderr=subprocess.STDOUT,
        )
        try:
            status = process.wait(SECONDS if kill_after is None else kill_after)
        except subprocess.TimeoutExpired:
            process.kill()
            status = process.wait()
    return Ended(status, 0, time.monotonic() - start, _text(task.output))


def _text(path: Path) -> str:
    return path.read_text(errors="replace") if path.exists() else ""
