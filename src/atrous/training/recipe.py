"""Recipes: YAML files with everything a training needs except the images.

A recipe has one or more stages. Keys at the top level apply to all stages; a stage overrides them, mapping by mapping;
`key=value` on the command line overrides both (`stages.NAME.key=value` one stage only). The result, with each stage
written out in full, is saved with the run and is a valid recipe itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field, ValidationError, model_validator

from atrous.errors import AtrousError, did_you_mean
from atrous.models import MODELS, list_models
from atrous.parsing import ParseError, parse_yaml
from atrous.training.config import RENAMED_KEYS, DataConfig, RecipeModel, StageConfig
from atrous.training.overrides import NO_WEIGHTS, expand_stages, stage_name
from atrous.weights.pretrained import initial_normalization

FOLDER = Path(__file__).parents[3] / "recipes"


class Recipe(RecipeModel):
    """A training in one or more stages."""

    name: str = Field(pattern=r"^[\w.+-]+$")
    """Name of the recipe, and of the run folder; by default the name of the file."""
    description: str = ""
    """One line on the recipe."""
    license: str = "unknown"
    """License of the resulting weights; the terms of the data often decide it."""
    seed: int = Field(default=0, ge=0)
    """Seed of initialization, sampling and augmentation."""
    deterministic: bool = False
    """Use deterministic algorithms (`torch.use_deterministic_algorithms`)."""
    stages: tuple[StageConfig, ...] = Field(min_length=1)
    """The stages in order, each starting with the weights of the one before."""

    @model_validator(mode="after")
    def _check(self) -> Recipe:
        names = [stage.name for stage in self.stages]
        if len(set(names)) < len(names):
            raise ValueError(f"stage names must be unique: {', '.join(names)}")
        return self

    def to_yaml(self) -> str:
        """Write the recipe out in full."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=120)


def list_recipes() -> list[str]:
    """List the recipes included in the package, by name."""
    return sorted(path.stem for path in _included())


def read_recipe(source: str | Path, overrides: Sequence[str] = (), data: Sequence[str] = ()) -> Recipe:
    """Read a recipe by name or from a file, with `key=value` overrides and the folders of its data sets.

    Each of `data`, as `NAME:FOLDER`, gives the folder of a data set of the recipe, or, if the recipe does not use it,
    replaces its data and all that it sets for them; the overrides stay.

    Raises: `AtrousError` for an unreadable file or data set, or an unknown or invalid key, with the nearest known name.
    """
    path = Path(source)
    if not path.is_file():
        included = {each.stem: each for each in _included()}
        if str(source) not in included:
            raise AtrousError(
                f"No recipe '{source}': expected a file or one of {', '.join(included)}."
                + (f" To train this network: --model {source}." if source in list_models() else "")
                + did_you_mean(path.stem, included)
            )
        path = included[str(source)]
    try:
        tree = parse_yaml(path.read_text("utf-8"))
    except (ParseError, UnicodeDecodeError, OSError) as error:
        raise AtrousError(f"{path}: not valid YAML: {error}. Correct the file.") from error
    if not isinstance(tree, dict):
        raise AtrousError(f"{path}: a recipe must be a mapping of keys to values.")
    return make_recipe({"name": path.stem, **tree}, overrides, data, where=str(path))


def make_recipe(
    tree: Mapping[str, Any], overrides: Sequence[str] = (), data: Sequence[str] = (), *, where: str = "the recipe"
) -> Recipe:
    """Make a recipe from the content of its file; see `read_recipe`."""
    own = set(Recipe.model_fields) - {"stages"}
    own |= {old for old, new in RENAMED_KEYS.items() if new in own}
    if data:
        recipe, stages = expand_stages(tree, (), recipe_keys=own, where=where)
        tree = {**recipe, "stages": [_with_data(stage, data) for stage in stages]}
    recipe, stages = expand_stages(tree, overrides, recipe_keys=own, where=where)
    for stage in stages:
        for key in ("weights", "backbone_weights"):
            if stage.get(key) in (*NO_WEIGHTS, None):
                stage[key] = ""
    weights, backbone_weights = (str(stages[0][key]) for key in ("weights", "backbone_weights"))
    stages = [_with_normalization(stage, weights, backbone_weights) for stage in stages]
    try:
        result = Recipe.model_validate({**recipe, "stages": stages})
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(_location(first["loc"], [stage_name(stage) for stage in stages]))
        reason = first["msg"].removeprefix("Value error, ").rstrip(".")
        raise AtrousError(f"{where}: {key + ': ' if key else ''}{reason}.") from error
    for spec in data:  # overrides may name data sets, too
        moved = tuple(stage.model_copy(update={"data": stage.data.with_folder(spec)}) for stage in result.stages)
        result = result.model_copy(update={"stages": moved})
    return result


def _with_data(stage: dict[str, Any], specs: Iterable[str]) -> dict[str, Any]:
    """Replace the data of a stage, see `read_recipe`; invalid keys are left to the validation."""
    try:
        data = DataConfig.model_validate(stage.get("data"))
    except ValidationError:
        return stage
    for spec in specs:
        data = data.with_data(spec)
    return {**stage, "data": data.model_dump()}


def _with_normalization(stage: dict[str, Any], weights: str, backbone_weights: str) -> dict[str, Any]:
    """Normalize as the initial weights need it unless the stage sets it; invalid keys are left to the validation."""
    model, preprocessing = stage.get("model"), stage.get("preprocessing") or {}
    if not isinstance(model, Mapping) or model.get("id") not in MODELS or not isinstance(preprocessing, Mapping):
        return stage
    if {"mean", "std", "channel_order"} <= preprocessing.keys():  # so a recipe written out in full needs no card
        return stage
    options, order = model.get("options") or {}, preprocessing.get("channel_order")
    normalization = initial_normalization(model["id"], options, weights, backbone_weights, order)
    return {**stage, "preprocessing": {**normalization, **preprocessing}}


def _location(path: Sequence[str | int], names: Sequence[str]) -> list[str]:
    """Name the stage in the path of a wrong key, or number it if the name is not unique."""
    location = list(map(str, path))
    if len(path) > 1 and isinstance(path[1], int) and path[0] == "stages" and names.count(names[path[1]]) == 1:
        location[1] = names[path[1]]
    return location


def _included() -> list[Path]:
    packaged = Path(str(files("atrous"))) / "recipes"
    return sorted((packaged if packaged.is_dir() else FOLDER).glob("*.yaml"))
