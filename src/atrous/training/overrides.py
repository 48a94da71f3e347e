"""What a recipe file holds, laid out stage by stage, with `key=value` laid over it: trees alone, nothing is checked."""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import yaml

from atrous.errors import AtrousError, did_you_mean

Tree = dict[str, Any]
Override = tuple[list[str], Any]
"""The path of a key, and its value."""


def lay_out(
    tree: Mapping[str, Any], overrides: Sequence[str], *, own: Collection[str], where: str
) -> tuple[Tree, list[Tree]]:
    """What is the recipe's `own`, and each of its stages in full.

    Raises: `AtrousError` for a stage that is no mapping, and for an override that cannot be read or has no place.
    """
    given = [_parse(text) for text in overrides]
    head = {key: value for key, value in tree.items() if key in own}
    common = {key: value for key, value in tree.items() if key not in own and key != "stages"}
    stages = []
    for number, stage in enumerate(tree.get("stages") or [{}]):
        if not isinstance(stage, Mapping):
            raise AtrousError(f"{where}: stages.{number} is a mapping of keys to values.")
        merged = _merge(common, stage)
        name = name_of(merged)
        for path, value in given:
            if path[0] == "stages" and len(path) > 2:
                if path[1] in (name, str(number)):
                    _set(merged, path[2:], value)
            elif path[0] not in own:
                _set(merged, path, value)
        stages.append(merged)
    _check_stage_names(given, [name_of(stage) for stage in stages])
    for path, value in given:
        if path[0] in own:
            _set(head, path, value)
    return head, stages


def name_of(stage: Mapping[str, Any]) -> str:
    """What a stage is called before it is checked."""
    return str(stage.get("name", "train"))


def _check_stage_names(given: Sequence[Override], names: Sequence[str]) -> None:
    known = [*names, *map(str, range(len(names)))]
    for path, _ in given:
        if path[0] == "stages" and (len(path) < 3 or path[1] not in known):
            asked = path[1] if len(path) > 1 else ""
            raise AtrousError(
                f"'{'.'.join(path)}': write stages.NAME.key=value; the stages are {', '.join(names)}."
                f"{did_you_mean(asked, names)}"
            )


def _parse(text: str) -> Override:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise AtrousError(f"'{text}': an override is key=value, such as optimizer.lr=0.01.")
    try:
        parsed = yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise AtrousError(f"'{text}': the value cannot be read ({' '.join(str(error).split())}).") from error
    if isinstance(parsed, str) and _is_number(parsed):  # YAML wants 1.0e-3 where all the world writes 1e-3
        parsed = float(parsed)
    return key.split("."), parsed if value else ""


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _set(tree: Tree, path: Sequence[str], value: Any) -> None:
    *parents, last = path
    for key in parents:
        inner = tree.get(key)
        if isinstance(inner, str):
            inner = {"id": inner} if key == "model" else {inner: {}}
        if inner is not None and not isinstance(inner, Mapping):
            raise AtrousError(f"{'.'.join(path)}: '{key}' holds no keys; give it as a whole, {key}=[...].")
        tree[key] = dict(inner or {})
        tree = tree[key]
    tree[last] = {"id": value} if last == "model" and isinstance(value, str) else value


def _merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> Tree:
    """Both, the one above where they differ; mappings are merged in their turn, lists are not.

    A named choice (the schedule, the loss) is replaced, for two of them would not be one.
    """
    merged = copy.deepcopy(dict(below))
    for key, value in above.items():
        before = merged.get(key)
        if key == "model":
            before, value = ({"id": each} if isinstance(each, str) else each for each in (before, value))
        choice = key in ("schedule", "loss")
        both = isinstance(before, Mapping) and isinstance(value, Mapping) and not choice
        merged[key] = _merge(before, value) if both else copy.deepcopy(value)  # type: ignore[arg-type]
    if isinstance(merged.get("model"), str):
        merged["model"] = {"id": merged["model"]}
    return merged
