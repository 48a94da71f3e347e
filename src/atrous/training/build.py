"""The network of a stage with its card, and how many steps it is trained."""

from __future__ import annotations

import math

import torch

from atrous.card import Card
from atrous.data.dataset import SegmentationDataset
from atrous.models import SegmentationModel, build_from_card
from atrous.training.recipe import Recipe
from atrous.training.stage import Stage

_NAMES = {"imagenet": "ImageNet"}


def count_steps(stage: Stage, images: int) -> int:
    """Steps of the optimizer in a stage; an epoch that is begun is counted in part."""
    return stage.steps or max(1, math.ceil(stage.epochs * images / stage.batch))


def make_card(recipe: Recipe, stage: Stage, data: SegmentationDataset, model_corners: bool = False) -> Card:
    """The card of what a stage trains, without figures."""
    return Card(
        model=stage.model.id,
        arguments=stage.model.options,
        classes=data.classes,
        colors=data.colors,
        preprocessing=stage.preprocessing,
        align_corners=model_corners,
        ignore_index=data.ignore_index,
        license=recipe.license,
        source=f"trained by atrous, recipe {recipe.name}, stage {stage.name}{_origin(recipe.stages[0])}",
        trained_on=f"{data.name} {data.split}, {len(set(data.items))} images",
    )


def _origin(first: Stage) -> str:
    """What the first stage starts from, for the card."""
    given = first.weights or first.backbone_weights
    if not given:
        return ""
    return f", begun with {given}" if first.weights else f", backbone begun with {_NAMES.get(given, given)} weights"


def build(recipe: Recipe, stage: Stage, data: SegmentationDataset) -> SegmentationModel:
    """The network of a stage with fresh parameters, the same for the same seed, and its card."""
    torch.manual_seed(recipe.seed)
    model = build_from_card(make_card(recipe, stage, data))
    model.card = make_card(recipe, stage, data, model.align_corners)
    return model
