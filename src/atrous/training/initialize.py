"""Initialization of a stage: from the previous stage, from trained weights, or from a pretrained backbone."""

from __future__ import annotations

from torch import Tensor

from atrous.card import Card
from atrous.models import SegmentationModel
from atrous.training.config import StageConfig
from atrous.training.recipe import Recipe
from atrous.weights import load
from atrous.weights.pretrained import load_backbone, pretrained_normalization
from atrous.weights.transfer import transfer

Weights = tuple[Card, dict[str, Tensor]]
"""The weights that a stage ended with, and their card."""


def initialize_stage(model: SegmentationModel, recipe: Recipe, number: int, previous: Weights | None) -> list[str]:
    """Initialize a fresh network from the previous stage, else from trained weights or a pretrained backbone.

    Returns messages on the loaded weights.
    """
    stage = recipe.stages[number]
    assert model.card is not None
    if previous is not None:
        card, tensors = previous
        return [str(transfer(model, model.card, tensors, card, f"stage {recipe.stages[number - 1].name}"))]
    if stage.weights:
        trained = load(stage.weights)
        assert trained.card is not None
        return [str(transfer(model, model.card, trained.state_dict(), trained.card, stage.weights))]
    if not stage.backbone_weights:
        return []
    report = load_backbone(model, stage.backbone_weights)
    return [str(report), *filter(None, [normalization_warning(stage)])]


def normalization_warning(stage: StageConfig) -> str:
    """Warn of a mean and std that differ from those of the pretrained weights; empty if they agree."""
    config, weights = stage.preprocessing, stage.backbone_weights
    if not weights:
        return ""
    expected = pretrained_normalization(stage.model.id, stage.model.options, weights, config.channel_order)
    if not expected or (config.mean, config.std) == (expected["mean"], expected["std"]):
        return ""
    return (
        f"preprocessing has mean {config.mean} and std {config.std}, but the {weights} weights were trained with mean "
        f"{expected['mean']} and std {expected['std']}: remove mean and std from the recipe."
    )
