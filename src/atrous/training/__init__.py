"""Training by the papers' recipes."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

_WHERE = {
    "Recipe": "atrous.training.recipe",
    "Stage": "atrous.training.stage",
    "read_recipe": "atrous.training.recipe",
    "list_recipes": "atrous.training.recipe",
    "SegmentationTask": "atrous.training.task",
    "train": "atrous.training.run",
}
__all__ = ["Recipe", "SegmentationTask", "Stage", "list_recipes", "read_recipe", "train"]

if TYPE_CHECKING:
    from atrous.training.recipe import Recipe, list_recipes, read_recipe
    from atrous.training.run import train
    from atrous.training.stage import Stage
    from atrous.training.task import SegmentationTask


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'atrous.training' has no attribute '{name}'")
    return getattr(import_module(_WHERE[name]), name)
