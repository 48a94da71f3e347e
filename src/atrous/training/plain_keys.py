"""Plain keys of a stage: short names for the settings that are changed most often."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from atrous.data.transforms import TRANSFORMS
from atrous.errors import AtrousError
from atrous.schema import StrictModel

Side = Annotated[int, Field(ge=1, strict=True)]
Factor = Annotated[float, Field(gt=0)]
ORDER = list(TRANSFORMS)
"""The order in which a plain key adds its transform."""


class PlainKeys(StrictModel):
    """Short keys for the settings that are changed most often.

    Each sets the key that it stands for, and is written into a run's recipe as that. Where several set the same, the
    last counts: a stage's before those at the top, and the command line's before both.
    """

    lr: float | None = Field(default=None, gt=0)
    """The base learning rate, above 0: the same as `optimizer.lr`."""
    crop: Literal[False] | Side | tuple[Side, Side] | None = None
    """Height and width of the transform `crop`, or one number for both; false for whole images."""
    scale: Literal[False] | tuple[Factor, Factor] | None = None
    """Lowest and highest factor of the transform `scale`, such as [0.5, 2.0]; false for none."""
    flip: bool | None = None
    """Whether the transform `flip` mirrors half of the images."""


def expand_plain_keys(stage: dict[str, Any]) -> dict[str, Any]:
    """Replace the plain keys of a stage by those that they stand for; the rest is not validated.

    Raises: `AtrousError` for an invalid value.
    """
    plain = {key: stage.pop(key) for key in PlainKeys.model_fields if key in stage}
    if not plain:
        return stage
    try:
        keys = PlainKeys.model_validate(plain)
    except ValidationError as error:
        key = str(error.errors()[0]["loc"][0])
        meaning = PlainKeys.model_fields[key].description
        raise AtrousError(f"{key}: found {plain[key]!r}, expected: {meaning}") from error
    if keys.lr is not None:
        optimizer = stage.get("optimizer")
        stage["optimizer"] = {**(optimizer if isinstance(optimizer, Mapping) else {}), "lr": keys.lr}
    if keys.crop is not None:
        height, width = (keys.crop, keys.crop) if isinstance(keys.crop, int) else keys.crop
        _set_transform(stage, "crop", keys.crop is not False and {"height": height, "width": width})
    if keys.scale is not None:
        _set_transform(stage, "scale", keys.scale is not False and dict(zip(("low", "high"), keys.scale, strict=True)))
    if keys.flip is not None:
        _set_transform(stage, "flip", keys.flip and {})
    return stage


def _set_transform(stage: dict[str, Any], name: str, arguments: Mapping[str, Any] | Literal[False]) -> None:
    """Change arguments of a transform and keep others such as `class_aware`; or add it at its place, or remove it."""
    listed = stage.get("transforms") or []
    if not isinstance(listed, list | tuple):
        return  # reported by the validation
    entries = [{entry: {}} if isinstance(entry, str) else entry for entry in listed]
    names = [next(iter(entry), "") if isinstance(entry, Mapping) else "" for entry in entries]
    if arguments is False:
        entries = [entry for entry, each in zip(entries, names, strict=True) if each != name]
    elif name in names:
        place = names.index(name)
        entries[place] = {name: {**(entries[place][name] or {}), **arguments}}
    else:
        later = ORDER[ORDER.index(name) + 1 :]
        place = next((index for index, each in enumerate(names) if each in later), len(names))
        entries.insert(place, {name: dict(arguments)})
    stage["transforms"] = entries
