"""Frozen parts: no gradient, evaluation mode, and a hint for a wrong name."""

from __future__ import annotations

import pytest
from torch import nn

from atrous import AtrousError
from atrous.layers.freeze import freeze


def test_submodules_and_parameters_by_name() -> None:
    model = nn.Sequential()
    model.add_module("first", nn.Sequential(nn.Linear(1, 1), nn.Dropout()))
    model.add_module("firsts", nn.Linear(1, 1))
    freeze(model, ("first", "firsts.bias"))
    assert {name for name, value in model.named_parameters() if value.requires_grad} == {"firsts.weight"}
    assert not any(module.training for module in model.first.modules())
    assert model.firsts.training
    with pytest.raises(AtrousError, match=r"no submodule 'frist'\. Did you mean 'first'"):
        freeze(model, ("frist",))
