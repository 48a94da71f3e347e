"""Segment images on a local Ray cluster whose worker and driver are killed, and compare with one process.

    python benchmarks/scale.py PHOTOGRAPHS -w WEIGHTS [--images 2000] [--rounds 3] [--ratio-images 200]

First `atrous predict --ray` with two workers runs on all images. When a quarter is written, one worker is killed by its
process id; when half is written, the driver is killed, and the same command is started again. Then every file must be
there and equal that of `atrous predict` in one process byte for byte, and the files of images that were finished at
either moment must not have been written again (they still have the same inodes).

Then the throughput of both is compared, in turns: with the start of cluster and workers, and without, from the first
label map written to the last.
"""

from __future__ import annotations

import argparse
import itertools
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

WORKERS = 2


def copy_photographs(source: Path, folder: Path, count: int) -> None:
    """Copy photographs under different names until there are enough."""
    folder.mkdir()
    files = sorted(source.glob("*.jpg"))
    for number, file in zip(range(count), itertools.cycle(files), strict=False):
        shutil.copyfile(file, folder / f"{number:05}_{file.name}")


def start(photographs: Path, weights: str, out: Path, *, ray: bool) -> subprocess.Popen[bytes]:
    """Start the command in a process of its own."""
    command = [sys.executable, "-m", "atrous", "predict", str(photographs), "-w", weights, "-o", str(out)]
    return subprocess.Popen(command + ["--ray", "--workers", str(WORKERS)] * ray, stdout=subprocess.DEVNULL)


def labels(out: Path) -> list[Path]:
    """List the label maps that are written so far."""
    return [path for path in out.glob("*.png") if not path.stem.endswith("_overlay") and not path.name.startswith(".")]


def wait_for(process: subprocess.Popen[bytes], out: Path, count: int) -> None:
    """Wait until this many label maps are written."""
    while len(labels(out)) < count:
        if process.poll() is not None:
            sys.exit(f"the command ended with {process.returncode} before {count} images were written")
        time.sleep(0.1)


def inodes(out: Path) -> dict[str, int]:
    """The inode of each file: a file that is written again has another one."""
    return {path.name: path.stat().st_ino for path in out.glob("*.png") if not path.name.startswith(".")}


def finished(files: dict[str, int]) -> dict[str, int]:
    """Leave out label maps without their overlays, those of images that were being written."""
    overlays = {name for name in files if name.endswith("_overlay.png")}
    complete = overlays | {name.replace("_overlay.png", ".png") for name in overlays}
    return {name: inode for name, inode in files.items() if name in complete}


def run_with_kills(photographs: Path, weights: str, out: Path, count: int) -> list[dict[str, int]]:
    """Run the job, kill a worker, kill the driver, run it again; return the files that were there at both moments."""
    process = start(photographs, weights, out, ray=True)
    wait_for(process, out, count // 4)
    family = psutil.Process(process.pid).children(recursive=True)
    worker = next(child for child in family if child.name().startswith("ray::MapWorker"))
    first = finished(inodes(out))
    worker.send_signal(signal.SIGKILL)
    print(f"killed worker {worker.pid} after {len(labels(out))} images")
    wait_for(process, out, count // 2)
    family = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    process.wait()
    _, left = psutil.wait_procs(family, timeout=60)
    second = finished(inodes(out))
    print(f"killed the driver after {len(labels(out))} images; {len(left)} processes are left")
    began = time.perf_counter()
    code = start(photographs, weights, out, ray=True).wait()
    print(f"the second run ended with {code} after {time.perf_counter() - began:.0f} s")
    return [first, second]


def measure(photographs: Path, weights: str, out: Path, *, ray: bool) -> tuple[float, float]:
    """Run the command; return images per second with its start, and from the first label map to the last."""
    began = time.perf_counter()
    start(photographs, weights, out, ray=ray).wait()
    total = time.perf_counter() - began
    times = sorted(path.stat().st_mtime for path in labels(out))
    shutil.rmtree(out)
    return len(times) / total, (len(times) - 1) / (times[-1] - times[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photographs", type=Path)
    parser.add_argument("-w", "--weights", required=True)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--ratio-images", type=int, default=200)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if arguments.images:
            copy_photographs(arguments.photographs, folder / "photographs", arguments.images)
            seen = run_with_kills(folder / "photographs", arguments.weights, folder / "ray", arguments.images)
            start(folder / "photographs", arguments.weights, folder / "one", ray=False).wait()
            files = sorted(path.name for path in (folder / "one").glob("*.png"))
            final = inodes(folder / "ray")
            equal = sum(
                (folder / "ray" / n).read_bytes() == (folder / "one" / n).read_bytes() for n in files if n in final
            )
            again = sum(final.get(n) != inode for files_then in seen for n, inode in files_then.items())
            print(f"{len(files)} files expected, {len(final)} written, {equal} equal, {again} written again")
        copy_photographs(arguments.photographs, folder / "few", arguments.ratio_images)
        pairs = [
            [measure(folder / "few", arguments.weights, folder / "out", ray=ray) for ray in (False, True)]
            for _ in range(arguments.rounds)
        ]
    for index, what in enumerate(("with the start", "without the start")):
        rates = [[pair[side][index] for pair in pairs] for side in (0, 1)]
        ratio = statistics.median(many / one for one, many in zip(*rates, strict=True))
        print(
            f"{what}: {WORKERS} workers / one process = {ratio:.2f} (medians {[statistics.median(r) for r in rates]})"
        )


if __name__ == "__main__":
    main()
