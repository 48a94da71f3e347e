from __future__ import annotations

import contextlib

import pytest
from torch import nn

from atrous.layers.mode import evaluation_mode


@pytest.mark.parametrize("training", [False, True])
def test_each_module_gets_its_own_mode_back(training: bool) -> None:
    model = nn.Sequential(nn.BatchNorm2d(1), nn.Dropout()).train(training)
    model[1].train(not training)
    with contextlib.suppress(RuntimeError), evaluation_mode(model):
        assert not any(module.training for module in model.modules())
        raise RuntimeError
    assert [module.training for module in model.modules()] == [training, training, not training]
