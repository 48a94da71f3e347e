"""Measure the time of commands from the start of the process to its end, as ratios to `import torch` in the same run.

    python benchmarks/startup.py [--rounds 9] [--baseline OTHER/src]

`predict` segments the example photograph: with a converted network in the cache, with an empty cache (the network then
runs by torch), and the second time, when it is converted. `--baseline` is the source folder of another version of the
package, for example of a `git worktree`, which predicts too.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def seconds(command: list[str], environment: Mapping[str, str]) -> float:
    uses = environment.get("EARLIER_USES")
    if uses:
        shutil.rmtree(environment["ATROUS_CACHE"], ignore_errors=True)
    if uses == "1":
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env={**os.environ, **environment})
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env={**os.environ, **environment})
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--baseline", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        atrous = [sys.executable, "-c", "from atrous.cli.main import main; main()"]
        predict = [*atrous, "predict", str(ROOT / "examples" / "street.jpg"), "-o", str(Path(folder) / "out")]
        ours = {"PYTHONPATH": str(ROOT / "src")}
        commands = {
            "import torch": ([sys.executable, "-c", "import torch"], ours),
            "import atrous": ([sys.executable, "-c", "import atrous"], ours),
            "atrous --help": ([*atrous, "--help"], ours),
            "predict, network cached": (predict, {**ours, "ATROUS_CACHE": f"{folder}/warm"}),
            "predict, empty cache": (predict, {**ours, "ATROUS_CACHE": f"{folder}/cold", "EARLIER_USES": "0"}),
            "predict, second use": (predict, {**ours, "ATROUS_CACHE": f"{folder}/second", "EARLIER_USES": "1"}),
        }
        if arguments.baseline:
            other = {"PYTHONPATH": str(arguments.baseline.resolve()), "ATROUS_CACHE": f"{folder}/other"}
            commands["predict, baseline"] = (predict, other)
        for command, environment in [*commands.values()] * 2:  # fills the caches
            seconds(command, environment)
        times: dict[str, list[float]] = {name: [] for name in commands}
        for _ in range(arguments.rounds):  # interleaved, so that a busy machine slows all commands alike
            for name, (command, environment) in commands.items():
                times[name].append(seconds(command, environment))
    reference = statistics.median(times["import torch"])
    for name, values in times.items():
        median = statistics.median(values)
        line = f"{name:24} {1000 * median:6.0f} ms, {median / reference:.3f} of `import torch`"
        if name.startswith("predict") and arguments.baseline:
            line += f", {median / statistics.median(times['predict, baseline']):.2f} of the baseline"
        print(line)


if __name__ == "__main__":
    main()
