"""How long `atrous --help` and `import atrous` take, as ratios to `import torch` in the same run.

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
    for command in commands.values():  # once for the caches
        seconds(command)
    taken: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(ROUNDS):  # in turn, so that a busy machine is busy for all
        for name, command in commands.items():
            taken[name].append(seconds(command))
    reference = statistics.median(taken["import torch"])
    for name, times in taken.items():
        median = statistics.median(times)
        print(f"{name:14} {1000 * median:6.0f} ms, {median / reference:.3f} of `import torch`")


if __name__ == "__main__":
    main()
