"""Run a command of atrous in a forked process, which a parent kills at a chosen time or write.

`multiprocessing` imports this file in its fork server: the imports below are paid once, not by each command. Nothing
here may start a thread.
"""

from __future__ import annotations

import os
import resource
import signal
import sys
from contextlib import suppress
from dataclasses import dataclass, field
from importlib import import_module
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

PRELOAD = (
    *("torch", "cv2", "onnxruntime", "numba", "PIL.Image", "yaml", "rich.table", "rich.progress", "filelock"),
    *("matplotlib.figure", "matplotlib.backends.backend_agg", "lightning_fabric", "huggingface_hub"),
    *("torch.utils.tensorboard", "torch.utils.data", "safetensors.torch", "onnxscript"),
    *("atrous.cli.main", "atrous.inference", "atrous.evaluation", "atrous.evaluation.report", "atrous.crf"),
    *("atrous.training", "atrous.data.catalog", "atrous.data.inspect", "atrous.data.convert", "atrous.export.push"),
    *("atrous.inference.video", "atrous.inference.engines.convert", "atrous.evaluation.crf_search"),
)
"""What commands import."""
CHANGES = {"open", "os.rename", "os.remove", "os.link", "os.mkdir", "os.rmdir", "os.truncate", "os.chmod"}
"""The audit events of changes in the file system; files that are opened for reading are left out."""

if __name__ == "__mp_main__" or "multiprocessing.forkserver" in sys.modules:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    for _name in PRELOAD:
        with suppress(ImportError):
            import_module(_name)


@dataclass(frozen=True)
class Task:
    """A command line, the folder it runs in, the file that it prints to, and what is to happen to it."""

    arguments: tuple[str, ...]
    folder: Path
    output: Path
    environment: dict[str, str] = field(default_factory=dict)
    settings: tuple[tuple[str, str, Any], ...] = ()
    """Module, name and value of constants that differ from the package's, such as the seconds between checkpoints."""
    change: int | None = None
    """The number of the change in the file system before which the process is killed, or says so to its parent."""
    tell: bool = False
    """Whether the parent kills the process, some time after that change has begun."""
    file_bytes: int | None = None
    """The limit of the size of files, beyond which writing fails as on a full disk."""


def run(task: Task, parent: Connection) -> None:
    """Run a command, and count the changes in the file system; tell the parent its exit code and their number."""
    output = os.open(task.output, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o644)
    for stream in (1, 2):
        os.dup2(output, stream)
    os.close(output)
    os.chdir(task.folder)
    os.environ.update(task.environment)
    for module, name, value in task.settings:
        setattr(import_module(module), name, value)
    changes = 0

    def count(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal changes
        if event not in CHANGES or not _changes_files(event, arguments):
            return
        if changes == task.change:
            if task.tell:
                parent.send_bytes(b"begun")
            else:
                os.kill(os.getpid(), signal.SIGKILL)
        changes += 1

    import atrous.cli.main

    sys.argv = ["atrous", *task.arguments]
    if task.file_bytes is not None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (task.file_bytes, task.file_bytes))
    sys.addaudithook(count)
    code = 0
    try:
        atrous.cli.main.main()
    except SystemExit as stop:
        code = int(stop.code or 0)
    sys.stdout.flush()
    sys.stderr.flush()
    parent.send_bytes(f"{code} {changes}".encode())


def _changes_files(event: str, arguments: tuple[Any, ...]) -> bool:
    path = arguments[0]
    if isinstance(path, int) or str(path).startswith(("/dev", "/proc", "/sys")):
        return False
    return event != "open" or bool(arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
