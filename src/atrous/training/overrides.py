"""Expand a recipe file stage by stage and apply `key=value` overrides, on plain mappings that are validated later."""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from typing import Any

from atrous.errors import AtrousError, did_you_mean
from atrous.parsing import ParseError, parse_yaml
from atrous.training.plain_keys import expand_plain_keys

Tree = dict[str, Any]
Override = tuple[list[str], Any]
"""The path of a key, and its value."""
NO_WEIGHTS = ("", "none")
"""Values of `weights` and `backbone_weights` for random initialization."""


def expand_stages(
    tree: Mapping[str, Any], overrides: Sequence[str], *, recipe_keys: Collection[str], where: str
) -> tuple[Tree, list[Tree]]:
    """Separate the keys of the recipe itself from its stages, each stage written out in full.

    Raises: `AtrousError` for a stage that is not a mapping, and for an invalid override.
    """
    parsed = [parse_override(text) for text in overrides]
    recipe = {key: value for key, value in tree.items() if key in recipe_keys}
    common = {key: value for key, value in tree.items() if key not in recipe_keys and key != "stages"}
    stages = []
    listed = tree.get("stages") or [{}]
    if not isinstance(listed, Sequence) or isinstance(listed, str):
        raise AtrousError(f"{where}: stages must be a list of mappings of keys to values, not {listed!r}.")
    for number, stage in enumerate(listed):
        if not isinstance(stage, Mapping):
            raise AtrousError(f"{where}: stages.{number} must be a mapping of keys to values.")
        merged = expand_plain_keys(_merge(expand_plain_keys(copy.deepcopy(common)), stage))
        name = stage_name(merged)
        for path, value in parsed:
            if path[0] == "stages" and len(path) > 2:
                if path[1] in (name, str(number)):
                    _set(merged, path[2:], value)
                    expand_plain_keys(merged)
            elif path[0] not in recipe_keys:
                _set(merged, path, value)
                expand_plain_keys(merged)
        stages.append(merged)
    _check_stage_names(parsed, [stage_name(stage) for stage in stages])
    for path, value in parsed:
        if path[0] in recipe_keys:
            _set(recipe, path, value)
    return recipe, stages


def stage_name(stage: Mapping[str, Any]) -> str:
    """Get the name of a stage before it is validated."""
    return str(stage.get("name", "train"))


def _check_stage_names(overrides: Sequence[Override], names: Sequence[str]) -> None:
    known = [*names, *map(str, range(len(names)))]
    for path, _ in overrides:
        if path[0] == "stages" and (len(path) < 3 or path[1] not in known):
            raise AtrousError(
                f"'{'.'.join(path)}': write stages.NAME.key=value; the stages are {', '.join(names)}."
                f"{did_you_mean(path[1] if len(path) > 1 else '', names)}"
            )


def parse_override(text: str) -> Override:
    """Parse `key.key=value`, with a value in YAML.

    Raises: `AtrousError` for a text without a key, or a value that is not valid YAML.
    """
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise AtrousError(f"'{text}': an override is key=value, such as optimizer.lr=0.01.")
    try:
        parsed = parse_yaml(value)
    except ParseError as error:
        raise AtrousError(f"'{text}': the value is not valid YAML ({error}).") from error
    if isinstance(parsed, str):
        with suppress(ValueError):  # YAML requires 1.0e-3 where everyone writes 1e-3
            parsed = float(parsed)
    return key.split("."), parsed if value else ""


def _set(tree: Tree, path: Sequence[str], value: Any) -> None:
    *parents, last = path
    for key in parents:
        inner = tree.get(key)
        if isinstance(inner, str):
            inner = {"id": inner} if key == "model" else {inner: {}}
        if inner is not None and not isinstance(inner, Mapping):
            raise AtrousError(f"{'.'.join(path)}: '{key}' is a list; replace it as a whole, {key}=[...].")
        tree[key] = dict(inner or {})
        tree = tree[key]
    tree[last] = {"id": value} if last == "model" and isinstance(value, str) else value


def _merge(base: Mapping[str, Any], update: Mapping[str, Any]) -> Tree:
    """Merge two mappings, nested mappings too; lists and named choices (schedule, loss) are replaced."""
    merged = copy.deepcopy(dict(base))
    for key, value in update.items():
        before = merged.get(key)
        if key == "model":
            before, value = ({"id": each} if isinstance(each, str) else each for each in (before, value))
        choice = key in ("schedule", "loss")
        both = isinstance(before, Mapping) and isinstance(value, Mapping) and not choice
        merged[key] = _merge(before, value) if both else copy.deepcopy(value)  # type: ignore[arg-type]
    if isinstance(merged.get("model"), str):
        merged["model"] = {"id": merged["model"]}
    return merged
