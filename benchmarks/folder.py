"""Measure what a folder of images takes besides the network: wall time against the network's own time for its images.

    python benchmarks/folder.py PHOTOGRAPHS -w WEIGHTS [--images 161] [--rounds 3]

The network's own time is that of running it on all images, one after the other on all cores, with the inputs prepared
before: the sum of these times. A second line compares with several images in the network at once, which is how folders
are processed. Labels are compared with those of one image after the other.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from atrous import Segmenter
from atrous.cli.main import main as run_command
from atrous.imaging.io import IMAGE_SUFFIXES, read_image
from atrous.inference.prefetch import parallel_map
from atrous.inference.preprocess import preprocess


def seconds(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def predict(files: list[Path], weights: str, out: Path) -> None:
    """Run the command in this process."""
    sys.argv = ["atrous", "predict", *map(str, files), "-w", weights, "-o", str(out), "--overwrite"]
    with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):
        run_command()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photographs", type=Path)
    parser.add_argument("-w", "--weights", required=True)
    parser.add_argument("--images", type=int, default=161)
    parser.add_argument("--list", type=Path, help="a file with the names of the images, without suffix")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    files = sorted(path for path in arguments.photographs.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES)
    if arguments.list:
        names = set(arguments.list.read_text().split())
        files = [path for path in files if path.stem in names]
    files = files[: arguments.images]
    alone = Segmenter.load(arguments.weights, device="cpu")
    many = Segmenter.load(arguments.weights, device="cpu", throughput=True)
    inputs = [preprocess(read_image(path), alone.card.preprocessing)[0][None] for path in files]

    def network_alone() -> None:
        for batch in inputs:
            alone.engine(batch)

    def network_side_by_side() -> None:
        for _ in parallel_map(many.engine, inputs, many.engine.parallel):
            pass

    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        predict(files[:12], arguments.weights, out)
        times: dict[str, list[float]] = {"folder": [], "network": [], "network, several at once": []}
        for _ in range(arguments.rounds):  # interleaved, so that a busy machine slows all alike
            times["network"].append(seconds(network_alone))
            times["folder"].append(seconds(lambda: predict(files, arguments.weights, out)))
            times["network, several at once"].append(seconds(network_side_by_side))
        different = sum(
            int((np.asarray(Image.open(out / f"{path.stem}.png")) != alone(path).labels).sum()) for path in files
        )
    medians = {name: statistics.median(values) for name, values in times.items()}
    for name, median in medians.items():
        print(f"{name:25} {median:6.2f} s, {1000 * median / len(files):5.1f} ms per image")
    ratios = [medians["folder"] / medians[name] for name in ("network", "network, several at once")]
    print(f"folder / network: {ratios[0]:.2f} (one image after the other), {ratios[1]:.2f} (several at once)")
    print(f"{len(files)} images, {different} pixels differ from one image after the other")


if __name__ == "__main__":
    main()
