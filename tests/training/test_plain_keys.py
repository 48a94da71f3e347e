"""Plain keys: the same as the keys that they stand for, and the last one counts."""

from __future__ import annotations

from typing import Any

import pytest

from atrous import AtrousError
from atrous.training.keys import list_keys
from atrous.training.overrides import expand_stages
from atrous.training.recipe import make_recipe

SCALE, CROP = {"scale": {"low": 0.5, "high": 2.0}}, {"crop": {"height": 513, "width": 513, "class_aware": ["a"]}}


def transforms(*overrides: str, listed: Any = (SCALE, CROP, "flip")) -> Any:
    _, (stage,) = expand_stages({"transforms": list(listed)}, overrides, recipe_keys=set(), where="here")
    return stage["transforms"]


def test_transforms_are_changed_added_and_removed() -> None:
    crop = {"crop": {"height": 321, "width": 417, "class_aware": ["a"]}}
    assert transforms("crop=[321,417]") == [SCALE, crop, {"flip": {}}]
    assert transforms("crop=321")[1]["crop"] == {"height": 321, "width": 321, "class_aware": ["a"]}
    assert transforms("crop=false", "flip=false", "scale=false") == []
    assert transforms("flip=true") == [SCALE, CROP, {"flip": {}}]
    assert transforms("scale=[0.75,1.5]")[0] == {"scale": {"low": 0.75, "high": 1.5}}
    blur = {"blur": {}}
    small = {"crop": {"height": 9, "width": 9}}
    assert transforms("flip=true", "scale=[1,2]", "crop=9", listed=["rotate", blur]) == [
        {"scale": {"low": 1.0, "high": 2.0}},
        {"rotate": {}},
        small,
        {"flip": {}},
        blur,
    ]
    assert transforms("crop=9", "transforms=[flip]") == ["flip"]
    assert transforms("transforms=[flip]", "crop=9") == [small, {"flip": {}}]


def test_the_last_counts() -> None:
    tree = {"lr": 1, "stages": [{"name": "a"}, {"name": "b", "optimizer": {"lr": 2}}, {"name": "c", "lr": 3}]}

    def rates(*overrides: str) -> list[float]:
        _, stages = expand_stages(tree, overrides, recipe_keys=set(), where="here")
        assert not any("lr" in stage for stage in stages)
        return [stage["optimizer"]["lr"] for stage in stages]

    assert rates() == [1, 2, 3]
    assert rates("optimizer.lr=4") == [4, 4, 4]
    assert rates("optimizer.lr=4", "stages.b.lr=5") == [4, 5, 4]
    assert rates("lr=1e-4") == [1e-4] * 3


@pytest.mark.parametrize("override", ["crop=big", "crop=true", "crop=[1,2,3]", "crop=-1", "scale=2", "flip=9", "lr=0"])
def test_invalid_values(override: str) -> None:
    key = override.partition("=")[0]
    with pytest.raises(AtrousError, match=rf"^{key}: found .*, expected: \w+"):
        transforms(override)


def test_a_recipe_is_written_out_in_full() -> None:
    tree = {"name": "x", "model": "unet.padded", "data": {"train": "voc2012:data"}, "steps": 10, "crop": 64, "lr": 0.5}
    stage = make_recipe(tree).stages[0]
    assert stage.optimizer.lr == 0.5
    assert stage.transforms == ({"crop": {"height": 64, "width": 64}},)


def test_every_key_has_its_type_and_meaning() -> None:
    keys = {key: rest for key, *rest in list_keys()}
    assert keys["patience"][:2] == ["integer, ≥ 0", "0"]
    assert keys["optimizer.lr"][:2] == ["number, > 0", "0.007"]
    assert keys["model"][1] == "required"
    assert {"crop", "scale", "flip", "lr", "evaluate.times", "data.train", "seed"} <= keys.keys()
    assert all(kind and meaning for kind, _, meaning in keys.values())
