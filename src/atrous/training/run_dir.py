"""The run folder as a whole: made, or taken up again from the checkpoint in it."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from atrous.errors import AtrousError
from atrous.files import check_writable, writing
from atrous.training.logs import environment, write_json, write_text
from atrous.training.recipe import Recipe, read_recipe

CHECKPOINT = "checkpoint.pt"
RECIPE = "recipe.yaml"


def prepare_folder(recipe: Recipe, folder: Path, resume: bool) -> dict[str, Any] | None:
    """Make the run folder, or find the checkpoint in it.

    Raises: `AtrousError` where there is a run and none was to be resumed, or the reverse, or it is of another recipe.
    """
    path = folder / RECIPE
    first = int(os.environ.get("RANK", os.environ.get("LOCAL_RANK", 0))) == 0
    if resume:
        if not path.is_file():
            raise AtrousError(f"{folder}: there is no run to resume, for it has no {RECIPE}.")
        if different := _difference(read_recipe(path), recipe):
            raise AtrousError(
                f"{path} is another recipe than the one given ({different}): resume it as it was, or choose another "
                "--out."
            )
    elif first and (folder / CHECKPOINT).exists():  # a start that failed before left a recipe at most
        raise AtrousError(f"{folder}: there is a run already. Go on with it by --resume, or choose another with --out.")
    if first:
        check_writable(folder)
        write_text(path, recipe.to_yaml())
        starts = folder / "environment.json"
        before = json.loads(starts.read_text("utf-8")) if starts.is_file() else []
        write_json(starts, [*before, environment()])
    return read_checkpoint(folder) if resume else None


def _difference(there: Recipe, here: Recipe) -> str:
    """The first entry in which two recipes differ; empty where none does."""
    before, now = _entries(there.model_dump(mode="json")), _entries(here.model_dump(mode="json"))
    for key in sorted(before.keys() | now.keys()):
        if before.get(key) != now.get(key):
            return f"{key}: {before.get(key)} there, {now.get(key)} here"
    return ""


def _entries(tree: Any, at: str = "") -> dict[str, Any]:
    """The leaves of a tree by their path."""
    if not isinstance(tree, dict | list) or not tree:
        return {at: tree}
    branches = tree.items() if isinstance(tree, dict) else enumerate(tree)
    return {key: leaf for name, branch in branches for key, leaf in _entries(branch, f"{at}.{name}".strip(".")).items()}


def read_checkpoint(folder: Path) -> dict[str, Any] | None:
    """The checkpoint of a run; None before there is one.

    Raises: `AtrousError` for a damaged file.
    """
    path = folder / CHECKPOINT
    if not path.is_file():
        return None
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, pickle.UnpicklingError) as error:
        raise AtrousError(
            f"{path}: the checkpoint is damaged ({type(error).__name__}); nothing can be resumed."
        ) from error


def write_checkpoint(folder: Path, state: Mapping[str, Any]) -> None:
    """Put a checkpoint in the place of the one before.

    Raises: `AtrousError` for a full disk.
    """
    path = folder / CHECKPOINT
    try:
        with writing(path) as temporary:
            torch.save(state, temporary)
    except RuntimeError as error:  # torch's writer has its own word for a full disk
        raise AtrousError(
            f"Cannot write {path}: {str(error).splitlines()[0]}. Is the disk full? The checkpoint before is whole: "
            "make room, then --resume."
        ) from error
