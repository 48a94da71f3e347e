"""Stages written out in full, and `key=value` overrides of all of them or of one."""

from __future__ import annotations

from typing import Any

import pytest

from atrous import AtrousError
from atrous.training.overrides import expand_stages

TREE = {
    "seed": 1,
    "model": "a.b",
    "schedule": {"poly": {}},
    "optimizer": {"lr": 1, "momentum": 0.9},
    "stages": [{"name": "one"}, {"name": "two", "schedule": "constant", "optimizer": {"lr": 2}}],
}


def expand(*overrides: str, tree: Any = TREE) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    return expand_stages(tree, overrides, recipe_keys={"seed", "name"}, where="here")


def test_stages_override_the_top_mapping_by_mapping() -> None:
    recipe, (one, two) = expand()
    assert recipe == {"seed": 1}
    assert one == {"name": "one", "model": {"id": "a.b"}, "schedule": {"poly": {}}, "optimizer": TREE["optimizer"]}
    assert two["optimizer"] == {"lr": 2, "momentum": 0.9}
    assert two["schedule"] == "constant"  # a choice is replaced, not merged


def test_overrides_of_the_recipe_of_all_stages_and_of_one() -> None:
    recipe, (one, two) = expand("seed=5", "optimizer.lr=1e-3", "stages.two.optimizer.momentum=0", "stages.0.model=c.d")
    assert recipe == {"seed": 5}
    assert (one["optimizer"], two["optimizer"]) == ({"lr": 0.001, "momentum": 0.9}, {"lr": 0.001, "momentum": 0})
    assert (one["model"], two["model"]) == ({"id": "c.d"}, {"id": "a.b"})
    assert TREE["optimizer"] == {"lr": 1, "momentum": 0.9}


def test_keys_inside_a_name_alone() -> None:
    _, (stage,) = expand("model.options.width=2", "loss.dice.weight=3", tree={"model": "a.b", "loss": "dice"})
    assert stage == {"model": {"id": "a.b", "options": {"width": 2}}, "loss": {"dice": {"weight": 3}}}


def test_values_are_yaml() -> None:
    _, (stage,) = expand("a=1e-3", "b=true", "c=[x, 2]", "d=", "e=text", "f=null", tree={})
    assert stage == {"a": 0.001, "b": True, "c": ["x", 2], "d": "", "e": "text", "f": None}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("lr", "an override is key=value"),
        ("a=[", "the value is not valid YAML"),
        ("stages.tow.steps=1", "the stages are one, two. Did you mean 'two'"),
        ("stages=1", "write stages.NAME.key=value"),
    ],
)
def test_invalid_overrides(override: str, message: str) -> None:
    with pytest.raises(AtrousError) as raised:
        expand(override)
    assert message in str(raised.value)


def test_a_stage_that_is_not_a_mapping() -> None:
    with pytest.raises(AtrousError, match=r"here: stages\.0 must be a mapping"):
        expand(tree={"stages": ["one"]})
