"""What a step of training takes with its data pipeline, as a ratio to one of a bare loop in the same run.

    python benchmarks/train.py --data camvid:/data/CamVid [--model deeplab_v3_plus.mobilenet_v2] [--steps 40]

The training is `atrous.training.train`: images are read, scaled, cropped, mirrored and normalized, steps are seeded and
logged. The bare loop is eager torch: the same network, loss and optimizer, on random tensors of the same batch and crop
that lie in memory. Both take turns, a block of steps each, so that a busy machine is busy for both; while the bare loop
has its turn the workers that load images are stopped, so that they neither disturb it nor get ahead. The first block of
both is not counted, nor the training's last step, which exports.
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

from atrous.training import Recipe, train
from atrous.training.build import build
from atrous.training.config import own_data
from atrous.training.keeper import Progress
from atrous.training.loader import open_training_data
from atrous.training.logs import read_rows
from atrous.training.recipe import make_recipe


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--model", default="deeplab_v3_plus.mobilenet_v2")
    parser.add_argument("--steps", type=int, default=40, help="of each that are counted")
    parser.add_argument("--block", type=int, default=5, help="steps of a turn")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--crop", type=int, nargs=2, default=(353, 465), metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    blocks = 1 + max(1, round(arguments.steps / arguments.block))
    recipe = recipe_of(arguments, blocks * arguments.block + 1)
    turns = Turns(bare_loop(recipe), arguments.block)
    with tempfile.TemporaryDirectory() as folder:
        train(recipe, Path(folder) / "run", devices=1, on_progress=turns, on_message=print)
        rows = read_rows(Path(folder) / "run" / "log.csv")[arguments.block : -1]
    waited = statistics.mean(float(row["waited"]) for row in rows)
    ours, bare = turns.ours[1:], turns.bare[1:]
    ratios = [one / other for one, other in zip(ours, bare, strict=True)]
    height, width = arguments.crop
    print(
        f"{arguments.model}, {arguments.batch} crops of {width} x {height}, {len(rows)} steps each in turns of "
        f"{arguments.block}, on {device()}, {torch.get_num_threads()} threads and {arguments.workers} workers"
    )
    print(f"training   {statistics.mean(ours):.4f} s a step, of which {waited:.4f} s waiting for images")
    print(f"bare loop  {statistics.mean(bare):.4f} s a step")
    print(f"ratio      {statistics.median(ratios):.3f}, turn by turn {min(ratios):.3f} to {max(ratios):.3f}")


def recipe_of(arguments: argparse.Namespace, steps: int) -> Recipe:
    """Scales, crops and mirror images as `atrous train` without a recipe has them; nothing is judged."""
    height, width = arguments.crop
    return make_recipe(
        {
            "name": "benchmark",
            "model": arguments.model,
            "data": {"train": own_data(arguments.data).train},
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
    """A step of it."""
    (stage,) = recipe.stages
    crop, how = stage.transforms[1]["crop"], stage.optimizer
    data = open_training_data(stage.data)
    model = build(recipe, stage, data).to(device()).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=how.lr, momentum=how.momentum, weight_decay=how.weight_decay)
    images = torch.randn(stage.batch, 3, crop["height"], crop["width"], device=device())
    labels = torch.randint(len(data.classes), (stage.batch, crop["height"], crop["width"]), device=device())

    def step() -> None:
        optimizer.zero_grad()
        outputs = model.training_outputs(images)
        torch.stack([weight * F.cross_entropy(logits, labels) for logits, weight in outputs]).sum().backward()
        optimizer.step()

    return step


class Turns:
    """Called after each step of the training: when its turn is over, the bare loop has one. Seconds a step of both."""

    def __init__(self, step: Callable[[], None], block: int) -> None:
        self.step, self.block = step, block
        self.ours: list[float] = []
        self.bare: list[float] = []
        self.began = clock()

    def __call__(self, progress: Progress) -> None:
        if progress.step % self.block or progress.step == progress.steps:
            return
        now = clock()
        self.ours.append((now - self.began) / self.block)
        with workers_stopped():
            now = clock()
            for _ in range(self.block):
                self.step()
            self.began = clock()
            self.bare.append((self.began - now) / self.block)


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
    """The time, once the device is done."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


if __name__ == "__main__":
    main()
