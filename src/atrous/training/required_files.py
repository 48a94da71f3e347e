"""Files that a recipe needs, resolved before the training starts: all that is missing is reported at once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import torch

from atrous.data.dataset import SegmentationDataset
from atrous.data.inspect import check_labeled
from atrous.errors import AtrousError, UnavailableError
from atrous.models import create_model
from atrous.training.config import StageConfig
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


def check_stages_labeled(recipe: Recipe) -> None:
    """Raise `AtrousError` if all pixels of the training or validation data of a stage are ignored."""
    checked: set[str] = set()
    for stage in recipe.stages:
        if (key := f"{stage.data.train} {stage.data.val}") not in checked:
            checked.add(key)
            for dataset in open_stage_data(stage.data):
                if dataset is not None:
                    check_labeled(dataset)


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
            path = find_weights(first.weights) if first.weights else _find_backbone_weights(first)
    except DownloadNeededError as error:
        once = f" once; {key}=none switches this off" if first.backbone_weights == "imagenet" else ""
        return f"{key} {getattr(first, key)}, to be downloaded from {error.url}{once}"
    weights = getattr(first, key)
    return f"{key} {weights}" if Path(weights) == path else f"{key} {weights}, {path}"


def why_unavailable(recipe: Recipe, *, download: bool) -> str:
    """Find the backbone weights of a recipe, with `download` by downloading them, or tell why they are unavailable.

    Returns an empty string if they are on this machine, or without `download` if a server is asked for them later.

    Raises: `AtrousError` for weights that do not fit the backbone, a damaged file or a full disk.
    """
    if not recipe.stages[0].backbone_weights:
        return ""
    try:
        with nullcontext() if download else downloads_disabled():
            _find_backbone_weights(recipe.stages[0])
    except UnavailableError as error:
        return str(error)
    except DownloadNeededError:
        pass
    return ""


def _find_backbone_weights(stage: StageConfig) -> Path:
    with torch.device("meta"):
        model = create_model(stage.model.id, **stage.model.options)
    return find_backbone_weights(model, stage.backbone_weights)
