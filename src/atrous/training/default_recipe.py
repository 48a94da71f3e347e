"""The recipe of `atrous train --model`: any network on any data, from ImageNet weights where there are any."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from atrous.models import MODELS
from atrous.training.config import DataConfig
from atrous.training.overrides import NO_WEIGHTS, parse_override
from atrous.training.recipe import Recipe, make_recipe
from atrous.weights import read_card
from atrous.weights.pretrained import has_imagenet_weights

EPOCHS = 50
VALIDATIONS = 10


def default_recipe(model: str, data: Sequence[str], overrides: Sequence[str] = ()) -> Recipe:
    """Make a recipe for a network and data: scales, crops of 513, flips; poly from 0.01; 50 epochs, 10 validations.

    The backbone starts from ImageNet weights if some are registered for it, unless an override gives other initial
    weights or none.

    Raises: `AtrousError` for an unknown network, unreadable data, or an invalid override.
    """
    takes_align_corners = "align_corners" in MODELS.entry(model).arguments()
    align_corners = takes_align_corners and _initial_align_corners(overrides)
    tree: dict[str, Any] = {
        "name": model,
        "model": {"id": model, "options": {"align_corners": align_corners} if takes_align_corners else {}},
        "preprocessing": {"grid": 16} if align_corners else {},
        "data": DataConfig.from_spec(data[0]).model_dump(),
        "transforms": [
            {"scale": {"low": 0.5, "high": 2.0}},
            {"crop": {"height": 513, "width": 513}},
            "flip",
        ],
        "optimizer": {"lr": 0.01},  # PSPNet's, for any network; the default of `OptimizerConfig` is DeepLab v3's
        "evaluate": {"times": VALIDATIONS},
    }
    if not any(word.startswith(("steps=", "epochs=")) for word in overrides):
        tree["epochs"] = EPOCHS
    where = f"--model {model}"
    recipe = make_recipe(tree, overrides, data[1:], where=where)
    network = recipe.stages[0].model
    if not sets_initial_weights(overrides) and has_imagenet_weights(network.id, network.options):
        recipe = make_recipe({**tree, "backbone_weights": "imagenet"}, overrides, data[1:], where=where)
    return recipe


def sets_initial_weights(overrides: Iterable[str]) -> bool:
    """Tell whether `key=value` overrides set the initial weights, be it to none."""
    keys = [parse_override(word)[0] for word in overrides]
    return any(key[2 * (key[0] == "stages") :] in (["weights"], ["backbone_weights"]) for key in keys)


def _initial_align_corners(overrides: Sequence[str]) -> bool:
    """Align corners as the initial weights do, else always, because crops have 16 k + 1 pixels."""
    weights = [word.partition("=")[2] for word in overrides if word.startswith("weights=")]
    return read_card(weights[-1]).align_corners if weights and weights[-1] not in NO_WEIGHTS else True
