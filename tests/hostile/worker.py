"""Read damaged files in a process of its own, and report what came of each as a line of JSON.

Each line of the standard input is a request: a reader or a command, or both, and a path. The first file of a kind is
undamaged. Memory is limited from then on, and its growth is measured.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import resource
import sys
import time
import traceback
from pathlib import Path
from typing import Any

import torch
import typer.main

import atrous.cli.main as command_line
from atrous import AtrousError
from tests.hostile import readers

HEADROOM = 4 << 30
"""Bytes of address space beyond what a process has before a file, which saves the machine; 1 GiB is checked."""


def _status(*keys: str) -> list[int]:
    """Read figures of this process in bytes: `VmSize`, the address space, `VmPeak`, its largest extent, and so on."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return [int(lines[key].split()[0]) << 10 for key in keys]


def run_reader(name: str, path: Path, valid: Path) -> tuple[str, str]:
    """Read a file: "error" is an `AtrousError`, "fine", "equal" and "finite" are contents, all else are faults."""
    try:
        return getattr(readers, name)(path, valid), ""
    except AtrousError as error:
        fault = "\n" in str(error) or len(str(error)) > 2000
        return "long message" if fault else "error", str(error)[:2000]
    except readers.AlteredError as error:
        return "altered", str(error)
    except BaseException:
        return "traceback", traceback.format_exc()[-3000:]


def run_command(arguments: list[str]) -> tuple[str, str]:
    """Run a command in this process: "error" is the code 2 and one line that says why.

    The code 1 is that of problems in a data set, which are printed on the standard output.
    """
    out, err = io.StringIO(), io.StringIO()
    sys.argv = ["atrous", *arguments]
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            command_line.main()
            code: Any = 0
        except SystemExit as stop:
            code = stop.code
        except BaseException:
            return "traceback", f"{sys.argv}: {traceback.format_exc()[-3000:]}"
    lines = err.getvalue().splitlines()
    errors = [number for number, line in enumerate(lines) if line.startswith("error: ")]
    shown = f"{sys.argv} ended with {code}: {err.getvalue()[-1500:]}"
    if any("Traceback" in line or "error of atrous" in line for line in lines):
        return "traceback", shown
    if code in (0, None, 1):
        return ("exit code", shown) if errors else ("fine", "")
    if code == 2 and errors == [len(lines) - 1] and len(lines[-1]) < 2000:
        return "error", lines[-1]
    return "exit code", shown


def examine(request: dict[str, Any]) -> dict[str, Any]:
    """Answer a request with the outcome, its detail, the seconds and the growth of memory."""
    Path("/proc/self/clear_refs").write_text("5")  # from here on the peak of the resident memory is this file's
    size, peak, resident = _status("VmSize", "VmPeak", "VmRSS")
    if not request["undamaged"]:
        resource.setrlimit(resource.RLIMIT_AS, (size + HEADROOM, resource.RLIM_INFINITY))
    start = time.process_time()
    outcome, detail = "fine", ""
    if request["reader"]:
        outcome, detail = run_reader(request["reader"], Path(request["path"]), Path(request["valid"]))
    if request["command"] and outcome in readers.HARMLESS:
        second, second_detail = run_command(request["command"])
        if second not in readers.HARMLESS or not request["reader"]:
            outcome, detail = second, second_detail
    seconds = time.process_time() - start
    largest, touched = _status("VmPeak", "VmHWM")
    grown = max(largest - size if largest > peak else 0, touched - resident)
    return {"outcome": outcome, "detail": detail, "seconds": seconds, "bytes": grown}


def main() -> None:
    """Answer the requests of the standard input, one by one."""
    torch.set_num_threads(1)
    command_line.app = typer.main.get_command(command_line.app)  # once, not in each command
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what decoders print is no answer
    for line in sys.stdin:
        print(json.dumps(examine(json.loads(line))), file=answers, flush=True)


if __name__ == "__main__":
    main()
