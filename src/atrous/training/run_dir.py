"""The run folder: created, or resumed from the checkpoint in it.

recipe.yaml         the recipe in full
environment.json    versions, devices, command and git state, one entry per start
log.csv             every step: loss, learning rate, seconds, seconds spent waiting for images
evaluations.csv     every evaluation: mIoU, accuracies, the IoU of each class
tensorboard/        the same logs; curves.png the same as plots
samples/            images with their ground truth beside the prediction
checkpoint.pt       all that resuming needs
best.safetensors    the weights of the stage's best evaluation, with their card
last.safetensors    the newest weights; STAGE.safetensors: the final weights of each stage
"""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

import atrous
from atrous.environment import describe_environment
from atrous.errors import AtrousError
from atrous.files import check_writable, write_json, write_text, writing
from atrous.marks import Mark, read_mark
from atrous.parsing import ParseError, parse_json
from atrous.training.loader import open_stage_data
from atrous.training.recipe import Recipe, read_recipe

CHECKPOINT = "checkpoint.pt"
CHECKPOINT_KEYS = frozenset({"stage", "step", "model", "optimizer", "precision", "ema", "metrics", "best_miou"})
"""The keys of every checkpoint."""
RECIPE = "recipe.yaml"
ADJUSTABLE = ("steps", "epochs", "patience", "evaluate.every", "evaluate.times", "checkpoint_every", "workers")
"""Keys of a stage that may change when a run is resumed before the end of the stage, or after that of the last."""
MARK = Mark("train")
"""The mark in the recipe of a run."""
FILES = (RECIPE, "environment.json", "log.csv", "evaluations.csv", "curves.png", "best.safetensors", "last.safetensors")
"""The files of a run besides its checkpoint."""


def prepare_run_dir(recipe: Recipe, folder: Path, resume: bool) -> dict[str, Any] | None:
    """Create the run folder, or read the checkpoint in it.

    Raises: `AtrousError` if there is a run but `resume` is false, or the reverse, or the run has another recipe (but
    for `ADJUSTABLE` keys); for other files that a run would replace.
    """
    path = folder / RECIPE
    first = int(os.environ.get("RANK", os.environ.get("LOCAL_RANK", 0))) == 0
    if resume:
        if not path.is_file():
            raise AtrousError(
                f"{folder}: no run to resume: {RECIPE} is missing; leave out --resume, or name the run with --out."
            )
        checkpoint = read_checkpoint(folder)
        _check_resumable(folder, read_recipe(path), recipe, checkpoint)
    elif first and (folder / CHECKPOINT).exists():  # a run that failed at the start leaves at most a recipe
        raise AtrousError(f"{folder} already contains a run: continue it with --resume, or choose another --out.")
    elif first:
        _check_other_files(recipe, folder)
    if first:
        check_writable(folder)
        write_text(path, f"# {MARK}\n{recipe.to_yaml()}")
        starts = folder / "environment.json"
        write_json(starts, [*_read_starts(starts), {"atrous": atrous.__version__, **describe_environment()}])
    return checkpoint if resume else None


def _read_starts(path: Path) -> list[Any]:
    """Read the descriptions of earlier starts; none if there is no file."""
    try:
        starts = parse_json(path.read_bytes()) if path.is_file() else []
        if isinstance(starts, list):
            return starts
        problem = "expected a list"
    except ParseError as error:
        problem = str(error)
    raise AtrousError(f"{path}: the record of the run's starts is damaged ({problem}): move it away to go on.")


def _check_resumable(folder: Path, run: Recipe, requested: Recipe, checkpoint: Mapping[str, Any] | None) -> None:
    """Check that a recipe continues a run: only the `ADJUSTABLE` keys differ, and only in stages that go on.

    Raises: `AtrousError` for another recipe, or fewer steps than the run has made.
    """
    number = checkpoint["stage"] if checkpoint is not None else 0
    if number not in range(len(run.stages)):
        raise damaged_checkpoint_error(folder, IndexError(f"stage {number}"))
    if difference := _difference(run, requested, number):
        raise AtrousError(
            f"{folder / RECIPE} differs from the given recipe ({difference}): resume with the same settings, or choose "
            f"another --out. In stages that are not finished, {', '.join(ADJUSTABLE)} may change."
        )
    stage = requested.stages[number]
    before = run.stages[number]
    if checkpoint is not None and (stage.steps, stage.epochs) != (before.steps, before.epochs):
        steps = stage.count_steps(len(open_stage_data(stage.data)[0]))
        if steps < checkpoint["step"]:
            raise AtrousError(
                f"{folder}: stage '{stage.name}' has made {checkpoint['step']} steps already, and is to end after "
                f"{steps}: give more steps or epochs."
            )


def _check_other_files(recipe: Recipe, folder: Path) -> None:
    """Check that a new run replaces no files, unless a run that failed at the start left them."""
    if read_mark(folder / RECIPE) == MARK:
        return
    names = (*FILES, *(f"{stage.name}.safetensors" for stage in recipe.stages))
    for name in names:
        if (folder / name).exists():
            raise AtrousError(f"{folder / name} exists and would be replaced: choose another folder with --out.")


def _difference(run: Recipe, requested: Recipe, number: int) -> str:
    """Describe the first key in which two recipes differ, except adjustable ones of the stages from `number` on."""
    stages = range(number, len(run.stages))
    adjustable = {f"stages.{index}.{key}" for index in stages for key in ADJUSTABLE}
    before, now = _leaves(run.model_dump(mode="json")), _leaves(requested.model_dump(mode="json"))
    for key in sorted((before.keys() | now.keys()) - adjustable):
        if before.get(key) != now.get(key):
            return f"{key}: {before.get(key)} in the run, {now.get(key)} now"
    return ""


def _leaves(tree: Any, prefix: str = "") -> dict[str, Any]:
    """Flatten a tree to its leaves, by their dotted paths."""
    if not isinstance(tree, dict | list) or not tree:
        return {prefix: tree}
    branches = tree.items() if isinstance(tree, dict) else enumerate(tree)
    return {
        key: leaf for name, branch in branches for key, leaf in _leaves(branch, f"{prefix}.{name}".strip(".")).items()
    }


def read_checkpoint(folder: Path) -> dict[str, Any] | None:
    """Read the checkpoint of a run; None if there is none yet.

    Raises: `AtrousError` for a damaged file.
    """
    path = folder / CHECKPOINT
    if not path.is_file():
        return None
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # the unpickler raises exceptions of any kind
        raise damaged_checkpoint_error(folder, error) from error
    missing = CHECKPOINT_KEYS - set(checkpoint) if isinstance(checkpoint, dict) else CHECKPOINT_KEYS
    if missing:
        raise damaged_checkpoint_error(folder, KeyError(*sorted(missing)))
    return checkpoint


def damaged_checkpoint_error(folder: Path, error: Exception) -> AtrousError:
    """Describe a checkpoint that cannot be read, and how to go on from the best weights."""
    best = folder / "best.safetensors"
    initial = f", from the best weights so far with weights={best}" if best.is_file() else ""
    return AtrousError(
        f"{folder / CHECKPOINT}: the checkpoint is damaged ({type(error).__name__}); the run cannot be resumed. Start "
        f"again in another --out{initial}."
    )


def write_checkpoint(folder: Path, state: Mapping[str, Any]) -> None:
    """Replace the checkpoint of a run, completely or not at all, so that a full disk leaves the previous one intact.

    Raises: `AtrousError` for a full disk.
    """
    with writing(folder / CHECKPOINT, sync=True) as temporary:
        try:
            torch.save(state, temporary)
        except RuntimeError as error:
            if "inline_container" not in str(error):  # torch's writer, which reports a full disk without its number
                raise
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) from error
