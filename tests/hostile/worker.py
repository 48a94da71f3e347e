"""Load weights from damaged files in a process of its own, and report what came of each as a line of JSON.

The standard input names one file per line. The first one is undamaged: its tensors are those that the others may have.
"""

from __future__ import annotations

import json
import resource
import sys
import time
import traceback
from pathlib import Path

import torch
from torch import Tensor

import atrous
from atrous import AtrousError

HEADROOM = 4 << 30
"""Bytes of address space beyond what the process has at its start: a limit that saves the machine; 1 GiB is checked."""


def _status(key: str) -> int:
    """Read a figure of this process in bytes: `VmSize`, the address space, or `VmPeak`, its largest extent."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(f"{key}:"))
    return int(line.split()[1]) << 10


def examine(path: Path, expected: dict[str, Tensor] | None) -> dict[str, str]:
    """Load a file: "error" is an `AtrousError`, "equal" and "finite" are networks, all other outcomes are faults."""
    try:
        state = atrous.load(path).state_dict()
    except AtrousError as error:
        fault = "\n" in str(error) or len(str(error)) > 2000
        return {"outcome": "long message" if fault else "error", "detail": str(error)[:2000]}
    except BaseException:
        return {"outcome": "traceback", "detail": traceback.format_exc()[-3000:]}
    if expected is None:
        return {"outcome": "equal", "detail": ""}
    for key in state.keys() | expected.keys():
        if key not in state or key not in expected or state[key].shape != expected[key].shape:
            return {"outcome": "altered", "detail": f"the tensor {key}"}
        if state[key].is_floating_point() and not state[key].isfinite().all():
            return {"outcome": "altered", "detail": f"{key} is not finite"}
    equal = all(torch.equal(state[key], expected[key]) for key in state)
    return {"outcome": "equal" if equal else "finite", "detail": ""}


def main() -> None:
    """Examine the files that the standard input names, one by one."""
    torch.set_num_threads(1)
    expected: dict[str, Tensor] | None = None
    for line in sys.stdin:
        path, start, size, peak = Path(line.strip()), time.monotonic(), _status("VmSize"), _status("VmPeak")
        result: dict[str, str | float] = {**examine(path, expected)}
        if expected is None:
            expected = {} if result["outcome"] != "equal" else dict(atrous.load(path).state_dict())
            resource.setrlimit(resource.RLIMIT_AS, (_status("VmSize") + HEADROOM,) * 2)
        grown = _status("VmPeak")
        result |= {"seconds": time.monotonic() - start, "bytes": grown - size if grown > peak else 0}
        print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
