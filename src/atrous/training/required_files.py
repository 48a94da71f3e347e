"""Files that a recipe needs, resolved before the training starts: all that is missing is reported at once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from atrous.data.dataset import SegmentationDataset
from atrous.errors import AtrousError
from atrous.models import create_model
from atrous.training.loader import open_stage_data
from atrous.training.recipe import Recipe
from atrous.weights import find_weights
from atrous.weights.find import DownloadNeededError, downloads_disabled
from atrous.weights.pretrained import find_backbone_weights

StageData = tuple[SegmentationDataset, SegmentationDataset | None]
"""Training and validation data of a stage."""


def resolve_files(recipe: Recipe, initial_weights: str = "") -> tuple[list[StageData], str]:
    """Open the data of every stage and locate the initial weights, without downloading.

    Returns the data by stage, and where the weights are or come from; `initial_weights` if that is known already.

    Raises: `AtrousError` with all that is missing or invalid.
    """
    data: list[StageData] = []
    problems: dict[str, None] = {}
    for stage in recipe.stages:
        with _collected(problems):
            data.append(open_stage_data(stage.data))
    with _collected(problems):
        initial_weights = initial_weights or locate_initial_weights(recipe)
    if len(problems) > 1:
        listed = "\n".join(f"  {problem}" for problem in problems)
        raise AtrousError(f"{len(problems)} problems with the files of {recipe.name}; nothing was trained:\n{listed}")
    if problems:
        raise AtrousError(*problems)
    return data, initial_weights


@contextmanager
def _collected(problems: dict[str, None]) -> Iterator[None]:
    try:
        yield
    except AtrousError as error:
        problems[str(error)] = None  # once, if several stages have the same


def locate_initial_weights(recipe: Recipe) -> str:
    """Describe where the initial weights of a recipe are, or will be downloaded from, without downloading them.

    Raises: `AtrousError` for weights that are neither on this machine nor on a server.
    """
    first = recipe.stages[0]
    if not first.weights and not first.backbone_weights:
        return "random"
    key = "weights" if first.weights else "backbone_weights"
    try:
        with downloads_disabled():
            if first.weights:
                path = find_weights(first.weights)
            else:
                with torch.device("meta"):
                    model = create_model(first.model.id, **first.model.options)
                path = find_backbone_weights(model, first.backbone_weights)
    except DownloadNeededError as error:
        return f"{key} {getattr(first, key)}, to be downloaded from {error.url}"
    return f"{key} {getattr(first, key)}, {path}"
