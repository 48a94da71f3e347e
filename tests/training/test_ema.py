"""The moving average of the weights."""

from __future__ import annotations

import pytest
import torch

from atrous.training.ema import EMA, averaged_model
from tests.training.conftest import tiny_model


def test_moving_average() -> None:
    model = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.zeros_(model.weight)
    average = EMA(model, decay=0.5)
    expected = 0.0
    for update in range(20):
        torch.nn.init.ones_(model.weight)
        average.update(model)
        decay = min(0.5, (1 + update) / (10 + update))
        expected = decay * expected + (1 - decay)
    assert average.values["weight"].item() == pytest.approx(expected)
    with average.applied_to(model):
        assert model.weight.item() == pytest.approx(expected)
    assert model.weight.item() == 1


def test_the_state_is_restored_exactly() -> None:
    model = torch.nn.Linear(2, 2)
    average = EMA(model, decay=0.9)
    torch.nn.init.ones_(model.weight)
    average.update(model)
    other = EMA(torch.nn.Linear(2, 2), decay=0.9)
    other.load_state_dict(average.state_dict())
    assert other.updates == 1
    assert all(torch.equal(value, average.values[name]) for name, value in other.values.items())


def test_a_model_without_an_average_is_given_itself() -> None:
    model = tiny_model()
    with averaged_model(model, None) as same:
        assert same is model
