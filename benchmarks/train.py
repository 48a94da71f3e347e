"""Measure a training step with its data pipeline, as a ratio to a step of a bare loop in the same run.

    python benchmarks/train.py --data camvid:/data/CamVid [--model deeplab_v3_plus.mobilenet_v2] [--steps 40]

The training is `atrous.training.train`: images are read, scaled, cropped, flipped and normalized, steps are seeded and
logged. The bare loop is eager torch: the same network, loss and optimizer, on random tensors of the same batch and crop
in memory. The two alternate in blocks of steps, so that other load on the machine affects both; during a block of the
bare loop the workers that load images are stopped, so that they neither disturb it nor work in advance. The first block
of both is not counted, nor the last training step, which exports.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import signal
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.nn.functional as F

from atrous.files import read_csv
from atrous.training import Recipe, TrainProgress, train
from atrous.training.config import DataConfig
from atrous.training.loader import open_training_data
from atrous.training.recipe import make_recipe
from atrous.training.stage import build_model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--model", default="deeplab_v3_plus.mobilenet_v2")
    parser.add_argument("--steps", type=int, default=40, help="counted steps of each")
    parser.add_argument("--block", type=int, default=5, help="steps per block")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--crop", type=int, nargs=2, default=(353, 465), metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    blocks = 1 + max(1, round(arguments.steps / arguments.block))
    recipe = recipe_of(arguments, blocks * arguments.block + 1)
    alternation = Alternation(bare_loop(recipe), arguments.block)
    with tempfile.TemporaryDirectory() as folder:
        train(recipe, Path(folder) / "run", devices=1, on_progress=alternation, on_message=print)
        rows = read_csv(Path(folder) / "run" / "log.csv")[arguments.block : -1]
    data_seconds = statistics.mean(float(row["data_seconds"]) for row in rows)
    ours, bare = alternation.ours[1:], alternation.bare[1:]
    ratios = [one / other for one, other in zip(ours, bare, strict=True)]
    height, width = arguments.crop
    print(
        f"{arguments.model}, {arguments.batch} crops of {width} x {height}, {len(rows)} steps each in blocks of "
        f"{arguments.block}, on {device()}, {torch.get_num_threads()} threads and {arguments.workers} workers"
    )
    print(f"training   {statistics.mean(ours):.4f} s per step, {data_seconds:.4f} s of it waiting for images")
    print(f"bare loop  {statistics.mean(bare):.4f} s per step")
    print(f"ratio      {statistics.median(ratios):.3f}, per block {min(ratios):.3f} to {max(ratios):.3f}")


def recipe_of(arguments: argparse.Namespace, steps: int) -> Recipe:
    """Augment as `atrous train` without a recipe does, without validation."""
    height, width = arguments.crop
    return make_recipe(
        {
            "name": "benchmark",
            "model": arguments.model,
            "data": {"train": DataConfig.from_spec(arguments.data).train},
            "transforms": [
                {"scale": {"low": 0.5, "high": 2.0}},
                {"crop": {"height": height, "width": width}},
                "flip",
            ],
            "steps": steps,
            "batch": arguments.batch,
            "workers": arguments.workers,
            "checkpoint_every": steps,
        }
    )


def bare_loop(recipe: Recipe) -> Callable[[], None]:
    """Make the step function of the bare loop."""
    (stage,) = recipe.stages
    crop, config = stage.transforms[1]["crop"], stage.optimizer
    data = open_training_data(stage.data)
    model = build_model(recipe, stage, data).to(device()).train()
    optimizer = torch.optim.SGD(
        model.parameters(), lr=config.lr, momentum=config.momentum, weight_decay=config.weight_decay
    )
    images = torch.randn(stage.batch, 3, crop["height"], crop["width"], device=device())
    labels = torch.randint(len(data.classes), (stage.batch, crop["height"], crop["width"]), device=device())

    def step() -> None:
        optimizer.zero_grad()
        outputs = model.training_outputs(images)
        torch.stack([weight * F.cross_entropy(logits, labels) for logits, weight in outputs]).sum().backward()
        optimizer.step()

    return step


class Alternation:
    """Alternate blocks of training steps and of the bare loop, and record the seconds per step of both."""

    def __init__(self, step: Callable[[], None], block: int) -> None:
        self.step, self.block = step, block
        self.ours: list[float] = []
        self.bare: list[float] = []
        self.start = clock()

    def __call__(self, progress: TrainProgress) -> None:
        if progress.step % self.block or progress.step == progress.steps:
            return
        now = clock()
        self.ours.append((now - self.start) / self.block)
        with workers_stopped():
            now = clock()
            for _ in range(self.block):
                self.step()
            self.start = clock()
            self.bare.append((self.start - now) / self.block)


@contextmanager
def workers_stopped() -> Iterator[None]:
    workers = [worker.pid for worker in multiprocessing.active_children() if worker.pid is not None]
    for worker in workers:
        os.kill(worker, signal.SIGSTOP)
    try:
        yield
    finally:
        for worker in workers:
            os.kill(worker, signal.SIGCONT)


def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def clock() -> float:
    """Get the time after the device has finished."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


if __name__ == "__main__":
    main()
