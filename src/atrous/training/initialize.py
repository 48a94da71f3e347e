"""Initialization of a stage: from the previous stage, from trained weights, or from a pretrained backbone."""

from __future__ import annotations

from pathlib import Path

from safetensors.torch import load_file
from torch import Tensor

from atrous.card import Card
from atrous.errors import AtrousError
from atrous.models import SegmentationModel
from atrous.training.config import StageConfig
from atrous.training.recipe import Recipe, pretrained_normalization
from atrous.weights import load
from atrous.weights.importers.torchvision import read_state_dict
from atrous.weights.pretrained import find_pretrained
from atrous.weights.store import SUFFIX
from atrous.weights.transfer import LoadReport, transfer

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
        return [str(initialize_from_weights(model, model.card, stage.weights))]
    if not stage.backbone_weights:
        return []
    report = initialize_backbone(model, stage.backbone_weights)
    return [str(report), *filter(None, [normalization_warning(stage)])]


def normalization_warning(stage: StageConfig) -> str:
    """Warn of a mean and std that differ from those of the pretrained weights; empty if they agree."""
    config, weights = stage.preprocessing, stage.backbone_weights
    expected = pretrained_normalization(stage.model.model_dump(), weights, config.channel_order)
    if not expected or (config.mean, config.std) == (expected["mean"], expected["std"]):
        return ""
    return (
        f"preprocessing has mean {config.mean} and std {config.std}, but the {weights} weights were trained with mean "
        f"{expected['mean']} and std {expected['std']}: remove mean and std from the recipe."
    )


def initialize_from_weights(model: SegmentationModel, card: Card, weights: str) -> LoadReport:
    """Initialize a network from a trained one, an id or a file; see `transfer`."""
    other = load(weights)
    assert other.card is not None
    return transfer(model, card, other.state_dict(), other.card, weights)


def initialize_backbone(model: SegmentationModel, weights: str) -> LoadReport:
    """Initialize the backbone (each of them, if there are several) from a classifier.

    `weights` is a file, or the tag of pretrained weights registered with the backbone, such as "imagenet".

    Raises: `AtrousError` for a file that does not fit the backbone, or a tag that the backbone does not have.
    """
    path = Path(weights)
    if not path.suffix and not path.is_file():
        path = find_pretrained(model, weights)
    if not path.is_file():
        raise AtrousError(f"backbone_weights: no such file: {path}. Give a file, or a tag such as imagenet.")
    state = load_file(path) if path.suffix == SUFFIX else read_state_dict(path)
    backbones = model.backbones()
    try:
        model.load_backbone(state)
    except RuntimeError as error:
        reason = str(error).splitlines()[1].strip() if "\n" in str(error) else str(error)
        raise AtrousError(f"{path}: not the weights of {type(backbones[0]).__name__}: {reason}") from error
    inside = {id(value) for backbone in backbones for value in backbone.parameters()}
    fresh = [name for name, value in model.named_parameters() if id(value) not in inside]
    return LoadReport(str(path), len(state), tuple(dict.fromkeys(name.rpartition(".")[0] for name in fresh)), ())
