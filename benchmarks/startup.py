"""Measure the time of `atrous --help` and `import atrous`, as ratios to `import torch` in the same run.

python benchmarks/startup.py
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

ROUNDS = 9


def seconds(command: list[str]) -> float:
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def main() -> None:
    commands = {
        "import torch": [sys.executable, "-c", "import torch"],
        "import atrous": [sys.executable, "-c", "import atrous"],
        "atrous --help": [str(Path(sysconfig.get_path("scripts")) / "atrous"), "--help"],
    }
    for command in commands.values():  # fill the caches
        seconds(command)
    times: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(ROUNDS):  # interleaved, so that a busy machine slows all commands alike
        for name, command in commands.items():
            times[name].append(seconds(command))
    reference = statistics.median(times["import torch"])
    for name, seconds_taken in times.items():
        median = statistics.median(seconds_taken)
        print(f"{name:14} {1000 * median:6.0f} ms, {median / reference:.3f} of `import torch`")


if __name__ == "__main__":
    main()
