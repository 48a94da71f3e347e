"""The plan before training."""

from __future__ import annotations

import pytest

from atrous.data import open_dataset
from atrous.errors import AtrousError
from atrous.training.plan import make_plan, summarize
from tests.training.conftest import small


def test_augmentation() -> None:
    assert summarize(small("camvid:nowhere").stages[0])["augmentation"] == "crop, flip"
    mixed = small("camvid:nowhere", "class_mix=0.5").stages[0]
    assert summarize(mixed)["augmentation"] == "crop, flip, class_mix 0.5"


def test_the_stride_of_the_loss() -> None:
    assert summarize(small("camvid:nowhere", "loss_stride=8").stages[0])["loss"] == "cross_entropy, stride 8"
    assert summarize(small("camvid:nowhere").stages[0])["loss"] == "cross_entropy"


def test_multipliers_of_the_learning_rate() -> None:
    stage = small("camvid:nowhere", "optimizer={lr: 0.01, lr_mult: {head: 10, bias: 2}}").stages[0]
    assert summarize(stage)["optimizer"] == "sgd, lr 0.01 poly, head x10, bias x2, weight decay 0.0001"


def test_unknown_parts_of_the_network_are_reported_before_training(street: str) -> None:
    recipe = small(street, "optimizer.lr_mult.backbon=0.1")
    with pytest.raises(AtrousError, match=r"no part 'backbon'\. Did you mean 'backbone'"):
        make_plan(recipe, recipe.stages[0], open_dataset(f"{street}?split=train"), None)


def test_memory_grows_with_the_batch_but_not_with_the_stride_of_evaluation(street: str) -> None:
    data = open_dataset(f"{street}?split=train")

    def memory(*overrides: str) -> int:
        recipe = small(street, *overrides)
        return make_plan(recipe, recipe.stages[0], data, None).memory

    assert memory("batch=4") < memory("batch=8")
    assert memory("batch=8", "accumulate=2") == memory("batch=4")
    assert memory("evaluate.output_stride=8") == memory()
