"""Measure a training step with our gradients of depthwise convolutions, as a ratio to one with torch's own.

    python benchmarks/depthwise.py [--model deeplab_v3_plus.mobilenet_v2 ...] [--rounds 5] [--precision bf16-mixed]

Both are forward and backward passes of the same network on the same random images on a CPU, without data pipeline and
optimizer, in channels-last order. They take turns at the first place, so that other load affects both. Printed are
medians.
"""

from __future__ import annotations

import argparse
import statistics
import time
from contextlib import nullcontext
from unittest import mock

import torch
from torch import Tensor

from atrous.allocator import keep_freed_memory
from atrous.models import SegmentationModel, create_model

MODELS = ["deeplab_v3_plus.mobilenet_v2", "deeplab_v3_plus.efficientnet_lite0", "deeplab_v3_plus.xception65"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", nargs="+", default=MODELS)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--crop", type=int, nargs=2, default=(353, 465), metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--precision", choices=("32-true", "bf16-mixed"), nargs="+", default=["32-true", "bf16-mixed"])
    arguments = parser.parse_args()
    keep_freed_memory()
    print(f"{arguments.batch} crops of {arguments.crop[1]} x {arguments.crop[0]}, {torch.get_num_threads()} threads")
    for name in arguments.model:
        torch.manual_seed(0)
        model = create_model(name, num_classes=11).to(memory_format=torch.channels_last).train()
        images = torch.randn(arguments.batch, 3, *arguments.crop).to(memory_format=torch.channels_last)
        for precision in arguments.precision:
            print(f"{name}, {precision}: {compare(model, images, precision, arguments.rounds)}")


def compare(model: SegmentationModel, images: Tensor, precision: str, rounds: int) -> str:
    seconds: tuple[list[float], list[float]] = [], []
    for number in range(rounds + 1):
        for which in (0, 1) if number % 2 else (1, 0):
            with mock.patch("atrous.layers.conv.has_faster_gradients", return_value=False) if which else nullcontext():
                start = time.perf_counter()
                step(model, images, precision)
            if number:  # the first round warms up
                seconds[which].append(time.perf_counter() - start)
    ours, torch_own = (statistics.median(values) for values in seconds)
    return f"{ours:.2f} s, torch {torch_own:.2f} s, ratio {torch_own / ours:.2f}"


def step(model: SegmentationModel, images: Tensor, precision: str) -> None:
    model.zero_grad()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bf16-mixed"):
        loss = sum(weight * logits.float().square().mean() for logits, weight in model.training_outputs(images))
    assert isinstance(loss, Tensor)
    loss.backward()  # type: ignore[no-untyped-call]


if __name__ == "__main__":
    main()
