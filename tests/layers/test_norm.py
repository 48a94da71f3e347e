"""Statistics of batch normalization, measured anew."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from atrous import AtrousError
from atrous.layers.norm import BatchNorm2d, freeze_batch_norm, recalibrate_batch_norm


def test_one_batch_gives_its_own_mean_and_unbiased_variance() -> None:
    layer = BatchNorm2d(3)
    batch = 2 + 3 * torch.randn(4, 3, 5, 6)
    recalibrate_batch_norm(layer, [batch])
    torch.testing.assert_close(layer.running_mean, batch.mean((0, 2, 3)))
    torch.testing.assert_close(layer.running_var, batch.transpose(0, 1).flatten(1).var(1))


def test_batches_count_by_their_pixels_and_nothing_of_before_is_left() -> None:
    layer = BatchNorm2d(2)
    nn.init.constant_(layer.running_mean, 1e3)
    batches = [torch.randn(n, 2, 4, 4) + n for n in (1, 2, 5)]
    recalibrate_batch_norm(layer, iter(batches))
    weights = torch.tensor([1.0, 2.0, 5.0]) / 8
    means = torch.stack([b.mean((0, 2, 3)) for b in batches])
    variances = torch.stack([b.transpose(0, 1).flatten(1).var(1) for b in batches])
    torch.testing.assert_close(layer.running_mean, weights @ means)
    torch.testing.assert_close(layer.running_var, weights @ variances)


def test_later_layers_see_what_earlier_ones_make_of_the_batch() -> None:
    model = nn.Sequential(BatchNorm2d(2), BatchNorm2d(2))
    recalibrate_batch_norm(model, [5 + 9 * torch.randn(64, 2, 8, 8)])
    torch.testing.assert_close(model[1].running_mean, torch.zeros(2), atol=1e-4, rtol=0)
    torch.testing.assert_close(model[1].running_var, torch.ones(2), atol=1e-3, rtol=0)


def test_dropout_is_off_frozen_layers_stay_and_modes_are_as_before() -> None:
    model = nn.Sequential(nn.Dropout(0.9), freeze_batch_norm(BatchNorm2d(2)), BatchNorm2d(2)).train()
    batch = torch.randn(8, 2, 4, 4)
    recalibrate_batch_norm(model, [batch])
    assert not model[1].running_mean.any()
    torch.testing.assert_close(model[2].running_mean, batch.mean((0, 2, 3)), rtol=1e-4, atol=1e-5)
    assert [layer.training for layer in model] == [True, False, True]
    assert model[2].momentum == 0.1


def test_no_batch_is_an_error_that_changes_nothing() -> None:
    layer = BatchNorm2d(2)
    with pytest.raises(AtrousError, match="there was no batch"):
        recalibrate_batch_norm(layer, [])
    assert torch.equal(layer.running_var, torch.ones(2))
