"""A recipe carried out: a run folder, and in it weights.

recipe.yaml         the recipe in full
environment.json    versions, devices, command, git state; one entry for each start
log.csv             every step: loss, learning rate, seconds, and how many of them it waited for its images
evaluations.csv     every evaluation: mIoU, accuracies, the IoU of each class
tensorboard/        the same
curves.png          the same
samples/            pages of images with what was found in them
checkpoint.pt       all that resuming needs
best.safetensors    the weights of the stage's best evaluation, with their card
last.safetensors    the newest; STAGE.safetensors: those that a stage ended with
"""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from atrous.card import Card
from atrous.errors import AtrousError
from atrous.models import SegmentationModel
from atrous.training.build import build, count_steps, make_card
from atrous.training.keeper import Keeper, OnProgress, Progress, StoppedError
from atrous.training.recipe import Recipe
from atrous.training.run_dir import CHECKPOINT, RECIPE, prepare_folder, read_checkpoint
from atrous.training.stage_run import OnMessage, StageRun

__all__ = [
    "CHECKPOINT",
    "RECIPE",
    "Progress",
    "Result",
    "build",
    "count_steps",
    "make_card",
    "read_checkpoint",
    "train",
]
STRATEGIES = ("ddp", "fsdp")
log = logging.getLogger("atrous.training")


@dataclass(frozen=True)
class Result:
    """What a training left: its folder, and the figures of each stage's last evaluation, by its name."""

    folder: Path
    stages: dict[str, dict[str, float]]
    best: Path | None
    last: Path


def train(
    recipe: Recipe,
    folder: str | os.PathLike[str],
    *,
    resume: bool = False,
    accelerator: str = "auto",
    devices: int | str = "auto",
    strategy: str = "ddp",
    on_progress: OnProgress = lambda progress: None,
    on_message: OnMessage = log.info,
) -> Result:
    """Carry out a recipe, or go on with it where its last checkpoint was written.

    It runs on all the devices that are asked for; under `torchrun`, on those of all its processes. Each of them has the
    whole network ("ddp"), or they share it out ("fsdp"), which takes less memory and more time.

    Raises: `AtrousError` for an unknown strategy, a folder that holds another run, data that cannot be read, a loss
    that is not finite, or a full disk; `KeyboardInterrupt` after Ctrl-C, once the checkpoint is written.
    """
    if strategy not in STRATEGIES:
        raise AtrousError(f"There is no strategy '{strategy}': {' or '.join(STRATEGIES)}.")
    folder = Path(folder)
    state = prepare_folder(recipe, folder, resume)
    torch.use_deterministic_algorithms(recipe.deterministic, warn_only=True)
    before: tuple[SegmentationModel, Card] | None = None
    judged: dict[str, dict[str, float]] = {}
    with _graceful() as asked:
        for number, stage in enumerate(recipe.stages):
            if state is not None and number < state["stage"]:
                continue
            own = state if state is not None and number == state["stage"] else None
            stage_run = StageRun(
                recipe, number, folder, before, own, accelerator, devices, strategy == "fsdp", on_message
            )
            keeper = Keeper(stage_run, asked, on_progress, on_message)
            stage_run.fit(keeper)
            judged[stage.name] = keeper.judged
            before = stage_run.finished(), stage_run.card
    best = folder / "best.safetensors"
    return Result(folder, judged, best if best.is_file() else None, folder / "last.safetensors")


@contextmanager
def _graceful() -> Iterator[threading.Event]:
    """Ctrl-C asks for a stop after the current step; a second one stops at once."""
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return
    before = signal.getsignal(signal.SIGINT)

    def ask(number: int, frame: Any) -> None:
        asked.set()
        signal.signal(signal.SIGINT, before)

    signal.signal(signal.SIGINT, ask)
    try:
        yield asked
    except StoppedError as error:
        raise KeyboardInterrupt from error
    finally:
        signal.signal(signal.SIGINT, before)
