"""Initialization of a stage: from the previous stage, from trained weights, or from a pretrained backbone."""

from __future__ import annotations

from torch import Tensor

from atrous.card import Card
from atrous.models import SegmentationModel
from atrous.training.config import StageConfig
from atrous.training.recipe import Recipe
from atrous.weights import load
from atrous.weights.pretrained import load_pretrained_backbone, pretrained_normalization, trained_normalization
from atrous.weights.transfer import transfer

CardAndState = tuple[Card, dict[str, Tensor]]
"""The card and the state dict of the weights that a stage ended with."""


def initialize_stage(model: SegmentationModel, recipe: Recipe, number: int, previous: CardAndState | None) -> list[str]:
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
        report = transfer(model, model.card, trained.state_dict(), trained.card, stage.weights)
    elif stage.backbone_weights:
        report = load_pretrained_backbone(model, stage.backbone_weights)
    else:
        return []
    return [str(report), *filter(None, [normalization_warning(stage)])]


def normalization_warning(stage: StageConfig) -> str:
    """Return a warning about a normalization that differs from that of the initial weights, or an empty string."""
    config, weights = stage.preprocessing, stage.weights or stage.backbone_weights
    if stage.weights:
        expected = trained_normalization(weights, config.channel_order)
    elif stage.backbone_weights:
        expected = pretrained_normalization(stage.model.id, stage.model.options, weights, config.channel_order)
    else:
        return ""
    differing = [key for key, value in expected.items() if getattr(config, key) != value]
    if not differing:
        return ""
    return (
        f"preprocessing has {' and '.join(f'{key} {getattr(config, key)}' for key in differing)}, but the {weights} "
        f"weights were trained with {' and '.join(f'{key} {expected[key]}' for key in differing)}: remove "
        f"{' and '.join(differing)} from the recipe."
    )
