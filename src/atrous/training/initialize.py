"""Initialization of a stage: from the previous stage, from trained weights, or from a pretrained backbone."""

from __future__ import annotations

from torch import Tensor

from atrous.card import Card
from atrous.models import SegmentationModel
from atrous.training.config import StageConfig
from atrous.training.recipe import Recipe
from atrous.weights import load, read_card
from atrous.weights.pretrained import initial_normalization, load_pretrained_backbone
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


def initial_images(stage: StageConfig, previous: CardAndState | None) -> str:
    """Get the images that the initial weights of a stage were trained on, packed as in their card."""
    if previous is not None:
        return previous[0].trained_images
    return read_card(stage.weights).trained_images if stage.weights else ""


def normalization_warning(stage: StageConfig) -> str:
    """Return a warning about a normalization that differs from that of the initial weights, or an empty string."""
    config, model, weights = stage.preprocessing, stage.model, stage.weights or stage.backbone_weights
    order = config.channel_order
    expected = initial_normalization(model.id, model.options, stage.weights, stage.backbone_weights, order)
    differing = [key for key, value in expected.items() if getattr(config, key) != value]
    ours, theirs = (" and ".join(f"{key} {values[key]}" for key in differing) for values in (dict(config), expected))
    message = f"preprocessing has {ours}, but the {weights} weights were trained with {theirs}"
    return f"{message}: remove {' and '.join(differing)} from the recipe." if differing else ""
