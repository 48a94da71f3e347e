"""Compare batches of the server with images one by one: their labels, and the time that they take.

    python benchmarks/serve_batching.py --data VOC2012/JPEGImages [-w WEIGHTS] [--images 64] [--rounds 5]

Photographs are resized to three sizes and segmented by 64 concurrent requests, in passes of one image and of up to
eight: labels are compared with those of `Segmenter` one by one. Times are of the processor (all threads), so that other
programs disturb them less, and as ratios to `Segmenter.segment_many`; medians of interleaved rounds.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from atrous import Segmenter
from atrous.imaging.io import Pixels, read_image, resize_image
from atrous.serve import Limits, Service

SIZES = ((375, 500), (500, 375), (333, 500))


def main() -> None:
    """Print the comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="a folder of photographs")
    parser.add_argument("-w", "--weights", default="deeplab_v3_plus.efficientnet_lite0.camvid")
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    images = list(itertools.islice(photographs(options.data), options.images))
    segmenter = Segmenter.load(options.weights, throughput=True)
    expected = [segmenter(image).labels for image in images]
    services = {
        size: Service([options.weights], max_batch=size, limits=Limits(queue=1024, seconds=3600)) for size in (1, 8)
    }
    runs: dict[str, Callable[[], list[np.ndarray]]] = {
        "the segmenter alone": lambda: [result.labels for result in segmenter.segment_many(images)],
        **{
            f"the service, up to {size} in a pass": lambda service=service: asyncio.run(ask(service, images))
            for size, service in services.items()
        },
    }
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in runs}
    for _ in range(options.rounds):
        for name, run in runs.items():
            start = time.process_time(), time.perf_counter()
            labels = run()
            times[name].append((time.process_time() - start[0], time.perf_counter() - start[1]))
            differing = sum(int((a != b).sum()) for a, b in zip(labels, expected, strict=True))
            assert differing == 0, f"{name}: {differing} labels differ"
    print(f"{len(images)} photographs of {len(SIZES)} sizes: all labels equal, in all {options.rounds} rounds")
    base = [statistics.median(column) for column in zip(*times["the segmenter alone"], strict=True)]
    for name, pairs in times.items():
        processor, wall = (statistics.median(column) for column in zip(*pairs, strict=True))
        print(
            f"{name}: {len(images) / wall:.2f} images/s, {wall / base[1]:.2f} of the time, "
            f"{processor / base[0]:.2f} of the processor's time"
        )
    for size, service in services.items():
        (metric,) = service.metrics.batch.collect()
        count = {sample.name.rsplit("_")[-1]: sample.value for sample in metric.samples}
        print(f"up to {size} in a pass: {count['sum'] / count['count']:.2f} on average")
        service.close()


async def ask(service: Service, images: list[Pixels]) -> list[np.ndarray]:
    """Segment all images at the same time."""
    results = await asyncio.gather(*(service.segment(image) for image in images))
    return [result.segmentation.labels for result in results]


def photographs(folder: Path) -> Iterator[Pixels]:
    """Read photographs, each resized to one of the sizes in turn."""
    for path, size in zip(sorted(folder.glob("*.jpg")), itertools.cycle(SIZES), strict=False):
        yield resize_image(read_image(path), *size)


if __name__ == "__main__":
    main()
