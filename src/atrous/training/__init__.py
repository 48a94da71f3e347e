"""Training by recipes, on Lightning Fabric."""

from __future__ import annotations

from atrous.training.recipe import Recipe, list_recipes, read_recipe
from atrous.training.train import TrainProgress, TrainResult, train

__all__ = ["Recipe", "TrainProgress", "TrainResult", "list_recipes", "read_recipe", "train"]
