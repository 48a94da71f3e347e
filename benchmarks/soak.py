"""Soak: predict for an hour in one process, and print memory, open files and threads each minute.

    python benchmarks/soak.py images [--minutes 60] [-w WEIGHTS]
    python benchmarks/soak.py video [--minutes 60] [-w WEIGHTS]
    python benchmarks/soak.py load [--minutes 60] [-w WEIGHTS]

Images pass the network at their own size. `images` segments noise of random sizes, several images side by side, from
arrays and files, and saves labels, overlays and, for some, probabilities. `video` segments clips of random sizes and
lengths, with and without smoothing and labels. `load` loads the weights anew for each image. The largest sizes come
first, so that memory is at its peak early; freed memory stays in the process (`atrous.allocator`). The first minutes
are the warm-up. Afterwards the process has to be flat: the median of resident memory over the last quarter is at most
5 % above that of the quarter after the warm-up, and there are no more open files and threads. Exit status 1 if it is
not.
"""

from __future__ import annotations

import argparse
import os
import random
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image

from atrous import Segmenter, load
from atrous.card import Preprocessing
from atrous.cli.predict import DEFAULT_WEIGHTS
from atrous.imaging.io import ImageLike, Pixels
from atrous.inference.video import segment_video
from atrous.weights import save

SIDES = (16, 1400)
"""The shortest and the longest side of images; those of videos are half as long."""

IMAGES_PER_ROUND = 20

WARM_UP = 0.15
"""The fraction of the time that is the warm-up."""

GROWTH = 1.05
"""The growth of resident memory after the warm-up that is still flat."""


class Row(NamedTuple):
    """The state of the process at a time; memory in MiB."""

    minutes: float
    done: int
    resident: float
    peak: float
    files: int
    threads: int

    @classmethod
    def measure(cls, start: float, done: int) -> Row:
        """Measure this process."""
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return cls(
            (time.monotonic() - start) / 60,
            done,
            pages * resource.getpagesize() / 2**20,
            resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
            len(os.listdir("/proc/self/fd")),
            len(os.listdir("/proc/self/task")),
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", choices=WORK)
    parser.add_argument("-w", "--weights", default=DEFAULT_WEIGHTS)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--interval", type=float, default=1.0, help="minutes between two rows")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    print(f"{arguments.work}, {arguments.weights}, seed {arguments.seed}, {os.cpu_count()} cores", flush=True)
    print("| minute | images or frames | resident, MiB | peak, MiB | open files | threads |")
    print("|---:|---:|---:|---:|---:|---:|", flush=True)
    with tempfile.TemporaryDirectory(prefix="atrous-soak-") as folder:
        weights = keep_size(arguments.weights, Path(folder) / "weights.safetensors")
        rows = soak(WORK[arguments.work](weights, random.Random(arguments.seed), Path(folder)), arguments)
    sys.exit(judge(rows))


def keep_size(weights: str, path: Path) -> Path:
    """Write weights whose card does not resize images, so that the network sees all sizes."""
    model = load(weights)
    assert model.card is not None
    preprocessing = model.card.preprocessing.model_dump() | {"resize": "keep", "size": None}
    model.card = model.card.model_copy(update={"preprocessing": Preprocessing(**preprocessing)})
    return save(model, path)


def soak(work: Iterator[int], arguments: argparse.Namespace) -> list[Row]:
    """Do the work until the time is over, and print a row per interval."""
    start, done, rows = time.monotonic(), 0, []
    due = start
    while time.monotonic() < start + 60 * arguments.minutes:
        done += next(work)
        if time.monotonic() >= due:
            due = time.monotonic() + 60 * arguments.interval
            row = Row.measure(start, done)
            rows.append(row)
            print(
                f"| {row.minutes:.1f} | {row.done:,} | {row.resident:.0f} | {row.peak:.0f} | {row.files} "
                f"| {row.threads} |",
                flush=True,
            )
    return rows


def judge(rows: list[Row]) -> int:
    """Compare the last quarter of the rows with the one after the warm-up."""
    rows = rows[int(WARM_UP * len(rows)) :]
    quarter = max(1, len(rows) // 4)
    first, last = rows[:quarter], rows[-quarter:]
    before, after = (statistics.median(row.resident for row in part) for part in (first, last))
    files, threads = (
        (max(getattr(row, name) for row in first), max(getattr(row, name) for row in last))
        for name in ("files", "threads")
    )
    flat = after <= GROWTH * before and files[1] <= files[0] and threads[1] <= threads[0]
    print(
        f"{'flat' if flat else 'NOT FLAT'}: resident memory {before:.0f} -> {after:.0f} MiB "
        f"({after / before - 1:+.1%}), "
        f"at most {files[0]} -> {files[1]} open files, {threads[0]} -> {threads[1]} threads, {rows[-1].done:,} done"
    )
    return 0 if flat else 1


def predict_images(weights: Path, random_source: random.Random, folder: Path) -> Iterator[int]:
    """Segment images side by side; yield how many after each round."""
    segmenter = Segmenter.load(weights, device="cpu", throughput=True)
    sizes = [(SIDES[1], SIDES[1])] * (2 * segmenter.workers)  # as many as are ever in work at once, in batches of two
    batch = 2
    while True:
        images: list[ImageLike] = []
        for number, size in enumerate(sizes):
            images.append(_as_input(noise(random_source, *size), random_source, folder / f"{number}"))
        for number, result in enumerate(segmenter.segment_many(images, batch=batch)):
            result.save(folder / f"result_{number}.png", overwrite=True)
        segmenter(images[0], probabilities=True)
        yield len(images) + 1
        sizes = [random_size(random_source, SIDES[1]) for _ in range(IMAGES_PER_ROUND)]
        batch = random_source.choice((1, 2))


def predict_video(weights: Path, random_source: random.Random, folder: Path) -> Iterator[int]:
    """Segment clips, one after the other; yield the number of frames after each."""
    segmenter = Segmenter.load(weights, device="cpu", throughput=True)
    size = SIDES[1] // 2, SIDES[1] // 2
    while True:
        clip, frames = folder / "clip.mp4", random_source.randrange(1, 60)
        writer = cv2.VideoWriter(str(clip), cv2.VideoWriter.fourcc(*"mp4v"), 25.0, size[::-1])
        for _ in range(frames):
            writer.write(noise(random_source, *size))
        writer.release()
        labels = folder / "labels" if random_source.random() < 0.3 else None
        smooth = random_source.choice((0.0, 0.7))
        yield segment_video(segmenter, clip, folder / "overlay.mp4", smooth=smooth, labels=labels).frames
        size = random_size(random_source, SIDES[1] // 2)


def load_anew(weights: Path, random_source: random.Random, folder: Path) -> Iterator[int]:
    """Load the weights for each image; yield 1 after each."""
    size = SIDES[1], SIDES[1]
    while True:
        segmenter = Segmenter.load(weights, device="cpu", throughput=random_source.random() < 0.5)
        segmenter(noise(random_source, *size)).save(folder / "result.png", overwrite=True)
        size = random_size(random_source, SIDES[1])
        yield 1


WORK: dict[str, Callable[[Path, random.Random, Path], Iterator[int]]] = {
    "images": predict_images,
    "video": predict_video,
    "load": load_anew,
}


def random_size(random_source: random.Random, longest: int) -> tuple[int, int]:
    """Choose even height and width, each order of magnitude with the same probability."""
    shortest = SIDES[0]
    height, width = (2 * round(shortest / 2 * (longest / shortest) ** random_source.random()) for _ in range(2))
    return height, width


def noise(random_source: random.Random, height: int, width: int) -> Pixels:
    """Draw smooth noise, which has regions as photographs have."""
    generator = np.random.default_rng(random_source.randrange(2**32))
    coarse = generator.integers(0, 256, (1 + height // 50, 1 + width // 50, 3), np.uint8)
    return np.asarray(cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC), np.uint8)


def _as_input(pixels: Pixels, random_source: random.Random, path: Path) -> ImageLike:
    """Pass an image as an array, or as a file of one of several formats."""
    suffix = random_source.choice(("", ".png", ".jpg", ".webp", ".tif"))
    if not suffix:
        return pixels
    Image.fromarray(pixels).save(path.with_suffix(suffix))
    return path.with_suffix(suffix)


if __name__ == "__main__":
    main()
