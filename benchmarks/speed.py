"""Measure the time from an image to its labels: every network in turn, several rounds, medians.

    python benchmarks/speed.py [--quick] [--threads 2] [--rounds 15]

An image of the stated size goes in, labels of the same size come out: preprocessing, network, resize and arg-max
included, reading and writing files not. Weights that are not on this machine are replaced by random ones of the same
network, which changes no time. Rounds are interleaved, so that a busy machine is busy for all rows.
"""

from __future__ import annotations

import argparse
import statistics
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

import atrous
from atrous.analysis.counts import count_parameters
from atrous.card import Card, Preprocessing
from atrous.imaging.io import read_image, resize_image
from atrous.models import create_model

PHOTOGRAPH = Path(__file__).parents[1] / "examples" / "street.jpg"


@dataclass(frozen=True)
class Row:
    """A network, by weights or by id, at an output stride and an image size (height, width)."""

    name: str
    output_stride: int
    size: tuple[int, int]
    arguments: dict[str, Any] = field(default_factory=dict)


TORCHVISION = {"multi_grid": (1, 1, 1), "dropout": 0.5, "refine": True}
ROWS = (
    Row("deeplab_v3_plus.efficientnet_lite0.camvid", 8, (360, 480)),
    Row("deeplab_v3_plus.efficientnet_lite0.camvid", 16, (360, 480)),
    Row("deeplab_v3.mobilenet_v2", 8, (513, 513)),
    Row("deeplab_v3.mobilenet_v2", 16, (513, 513)),
    Row("deeplab_v3.mobilenet_v2_x0.5", 8, (257, 257)),
    Row("deeplab_v3.resnet50", 8, (520, 520), TORCHVISION),
    Row("deeplab_v3.resnet101", 8, (520, 520), TORCHVISION),
)


def main() -> None:
    """Print a Markdown table: parameters, multiply-adds and milliseconds of every row."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="3 rounds")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    rounds = 3 if arguments.quick else arguments.rounds
    segmenters = [build(row) for row in ROWS]
    images = [resize_image(read_image(PHOTOGRAPH), *row.size) for row in ROWS]
    costs = [multiply_adds(segmenter, image) for segmenter, image in zip(segmenters, images, strict=True)]
    times: list[list[float]] = [[] for _ in ROWS]
    for _ in range(rounds):
        for taken, segmenter, image in zip(times, segmenters, images, strict=True):
            start = time.perf_counter()
            segmenter(image)
            taken.append(1000 * (time.perf_counter() - start))
    print(f"{arguments.threads} threads, medians of {rounds} rounds")
    print("| network | image | output stride | parameters | multiply-adds | ms |\n|---|---|---:|---:|---:|---:|")
    for row, segmenter, cost, taken in zip(ROWS, segmenters, costs, times, strict=True):
        size = f"{row.size[1]} x {row.size[0]}"
        parameters = count_parameters(segmenter.model)
        median = statistics.median(taken)
        print(f"| `{row.name}` | {size} | {row.output_stride} | {parameters:,} | {cost / 1e9:.2f} G | {median:.0f} |")


def build(row: Row) -> atrous.Segmenter:
    """Load the weights of a row, or build its network with random ones."""
    if row.name in atrous.list_weights():
        segmenter = atrous.Segmenter.load(row.name, device="cpu")
        segmenter.set_output_stride(row.output_stride)
        return segmenter
    model = create_model(row.name, num_classes=21, output_stride=row.output_stride, **row.arguments)
    classes = tuple(f"class {index}" for index in range(21))
    card = Card(model=row.name, classes=classes, colors=((0, 0, 0),) * 21, preprocessing=Preprocessing())
    return atrous.Segmenter(model, card, device="cpu")


def multiply_adds(segmenter: atrous.Segmenter, image: np.ndarray) -> int:
    """Count the multiply-adds of one image; the first call warms up, too."""
    with FlopCounterMode(display=False) as counter:
        segmenter(image)
    return counter.get_total_flops() // 2


if __name__ == "__main__":
    main()
