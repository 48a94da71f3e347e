"""Training by the papers' recipes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from atrous.lazy import lazy_names

__all__ = ["Recipe", "SegmentationTask", "Stage", "list_recipes", "read_recipe", "train"]

if TYPE_CHECKING:
    from atrous.training.recipe import Recipe, list_recipes, read_recipe
    from atrous.training.run import train
    from atrous.training.stage import Stage
    from atrous.training.task import SegmentationTask


__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "Recipe": ".recipe",
        "SegmentationTask": ".task",
        "Stage": ".stage",
        "list_recipes": ".recipe",
        "read_recipe": ".recipe",
        "train": ".run",
    },
)
