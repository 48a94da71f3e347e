"""Recipes: all that a training needs beside the pictures, in one YAML file.

A recipe has one or more stages. What stands at the top of the file holds for all of them; a stage overrides it, mapping
by mapping; `key=value` on the command line overrides both (`stages.NAME.key=value` one stage alone). What comes out,
each stage written out in full, is saved with the run and is a recipe again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field, ValidationError, model_validator

from atrous.errors import AtrousError, did_you_mean
from atrous.models import list_models
from atrous.training.config import DataConfig, Part, own_data
from atrous.training.overrides import lay_out, name_of
from atrous.training.stage import Stage

__all__ = ["FOLDER", "DataConfig", "Recipe", "Stage", "list_recipes", "make_recipe", "own_data", "read_recipe"]
FOLDER = Path(__file__).parents[3] / "recipes"


class Recipe(Part):
    """A training in stages."""

    name: str = Field(pattern=r"^[\w.+-]+$")
    about: str = ""
    license: str = "unknown"
    """Of the weights that come out; the data's terms often decide it."""
    seed: int = Field(default=0, ge=0)
    deterministic: bool = False
    stages: tuple[Stage, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _check(self) -> Recipe:
        names = [stage.name for stage in self.stages]
        if len(set(names)) < len(names):
            raise ValueError(f"the stages {', '.join(names)} need names of their own")
        return self

    def at(self, data: Iterable[str]) -> Recipe:
        """The recipe on data sets in other places, or on others: see `DataConfig.at`."""
        stages = list(self.stages)
        for given in data:
            stages = [stage.model_copy(update={"data": stage.data.at(given)}) for stage in stages]
        return self.model_copy(update={"stages": tuple(stages)})

    def to_yaml(self) -> str:
        """The recipe in full."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=120)


def list_recipes() -> list[str]:
    """The recipes that come with atrous, by name."""
    return sorted(path.stem for path in _shipped())


def read_recipe(source: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """A recipe by its name or file, with `key=value` overrides.

    Raises: `AtrousError` for a file that cannot be read, or an entry that is unknown or wrong, with the nearest name.
    """
    path = Path(source)
    if not path.is_file():
        shipped = {each.stem: each for each in _shipped()}
        if str(source) not in shipped:
            raise AtrousError(
                f"There is no recipe '{source}', neither a file nor of these: {', '.join(shipped)}."
                + (f" To train this network: --model {source}." if source in list_models() else "")
                + did_you_mean(path.stem, shipped)
            )
        path = shipped[str(source)]
    try:
        tree = yaml.safe_load(path.read_text("utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
        raise AtrousError(f"{path}: cannot be read as YAML: {' '.join(str(error).split())}.") from error
    if not isinstance(tree, dict):
        raise AtrousError(f"{path}: a recipe is a mapping of keys to values.")
    return make_recipe({"name": path.stem, **tree}, overrides, where=str(path))


def make_recipe(tree: Mapping[str, Any], overrides: Sequence[str] = (), *, where: str = "the recipe") -> Recipe:
    """A recipe from what its file holds; see `read_recipe`."""
    head, stages = lay_out(tree, overrides, own=set(Recipe.model_fields) - {"stages"}, where=where)
    try:
        return Recipe.model_validate({**head, "stages": stages})
    except ValidationError as error:
        first = error.errors()[0]
        entry = ".".join(_place(first["loc"], [name_of(stage) for stage in stages]))
        reason = first["msg"].removeprefix("Value error, ").rstrip(".")
        raise AtrousError(f"{where}: {entry + ': ' if entry else ''}{reason}.") from error


def _place(path: Sequence[str | int], names: Sequence[str]) -> list[str]:
    """Where in a recipe something is wrong, the stage being named where no other has its name."""
    place = list(map(str, path))
    if len(path) > 1 and isinstance(path[1], int) and path[0] == "stages" and names.count(names[path[1]]) == 1:
        place[1] = names[path[1]]
    return place


def _shipped() -> list[Path]:
    packaged = Path(str(files("atrous"))) / "recipes"
    return sorted((packaged if packaged.is_dir() else FOLDER).glob("*.yaml"))
