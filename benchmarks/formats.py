"""Time the encoding of label maps as run lengths and polygons, in turns with pycocotools and rasterio.

    python benchmarks/formats.py LABELS [--images 40] [--rounds 5]

LABELS is a folder of label maps as PNG, such as SegmentationClassAug of PASCAL VOC. Printed are medians over the images
of each image's fastest round.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask
from rasterio.features import shapes

from atrous.imaging.labels import read_raw_mask
from atrous.inference.formats.polygons import trace_polygons
from atrous.inference.formats.rle import encode_runs

CLASSES = 21


def encode_by_pycocotools(labels: NDArray[np.uint8]) -> Any:
    """Encode each class that occurs."""
    present = [label for label in np.unique(labels) if label < CLASSES]
    return [coco_mask.encode(np.asfortranarray(labels == label, np.uint8)) for label in present]


METHODS: dict[str, Callable[[NDArray[np.uint8]], Any]] = {
    "run lengths": lambda labels: encode_runs(labels, CLASSES),
    "run lengths, pycocotools": encode_by_pycocotools,
    "polygons": lambda labels: trace_polygons(labels, CLASSES),
    "polygons, simplified by 1 pixel": lambda labels: trace_polygons(labels, CLASSES, simplify=1.0),
    "polygons, rasterio": lambda labels: list(shapes(labels, mask=labels < CLASSES)),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("labels", type=Path)
    parser.add_argument("--images", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    maps = [read_raw_mask(path) for path in sorted(arguments.labels.glob("*.png"))[: arguments.images]]
    for method in METHODS.values():
        method(maps[0])  # compiles
    best = {name: np.full(len(maps), np.inf) for name in METHODS}
    for _ in range(arguments.rounds):
        for index, labels in enumerate(maps):
            for name, method in METHODS.items():
                start = time.perf_counter()
                method(labels)
                best[name][index] = min(best[name][index], time.perf_counter() - start)
    pixels = np.mean([labels.size for labels in maps])
    print(f"{len(maps)} label maps of {pixels:,.0f} pixels on average")
    for name, seconds in best.items():
        print(f"{name}: {1000 * np.median(seconds):.2f} ms")


if __name__ == "__main__":
    main()
