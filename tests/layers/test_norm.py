"""Batch normalization (single values, frozen layers, recalibrated statistics) and layer normalization."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from atrous import AtrousError, create_model
from atrous.layers.norm import (
    BatchNorm2d,
    LayerNorm2d,
    folded_batch_norms,
    freeze_batch_norm,
    recalibrate_batch_norm,
    unfold_batch_norm,
    unfreeze_batch_norm,
)


def test_one_batch_gives_its_own_mean_and_unbiased_variance() -> None:
    layer = BatchNorm2d(3)
    batch = 2 + 3 * torch.randn(4, 3, 5, 6)
    recalibrate_batch_norm(layer, [batch])
    torch.testing.assert_close(layer.running_mean, batch.mean((0, 2, 3)))
    torch.testing.assert_close(layer.running_var, batch.transpose(0, 1).flatten(1).var(1))


def test_batches_count_by_their_pixels_and_old_statistics_are_dropped() -> None:
    layer = BatchNorm2d(2)
    nn.init.constant_(layer.running_mean, 1e3)
    batches = [torch.randn(n, 2, 4, 4) + n for n in (1, 2, 5)]
    recalibrate_batch_norm(layer, iter(batches))
    weights = torch.tensor([1.0, 2.0, 5.0]) / 8
    means = torch.stack([b.mean((0, 2, 3)) for b in batches])
    variances = torch.stack([b.transpose(0, 1).flatten(1).var(1) for b in batches])
    torch.testing.assert_close(layer.running_mean, weights @ means)
    torch.testing.assert_close(layer.running_var, weights @ variances)


def test_later_layers_are_measured_on_the_outputs_of_earlier_ones() -> None:
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


def folded_network() -> nn.Sequential:
    """Two convolutions with folded normalization, as converters write them, and a layer that was not folded."""
    torch.manual_seed(0)
    convs = nn.Conv2d(3, 4, 3, bias=False), nn.Conv2d(4, 5, 1)
    model = nn.Sequential(convs[0], BatchNorm2d(4), nn.ReLU6(), convs[1], BatchNorm2d(5), BatchNorm2d(5))
    for layer in (model[1], model[4]):
        layer.running_var.fill_(1 - layer.eps)
        nn.init.uniform_(layer.bias, -1, 1)
    return model


def test_unfolding_keeps_the_network_and_makes_training_compute_the_same() -> None:
    model = folded_network().eval()
    images = 3 + 2 * torch.randn(8, 3, 9, 9)
    before = model[:5](images)
    unfold_batch_norm(model, images.split(3))
    assert not model.training
    torch.testing.assert_close(model[:5](images), before)
    torch.testing.assert_close(model[1].running_mean, model[0](images).mean((0, 2, 3)))
    assert model[5].running_var.eq(1).all()  # was not folded
    model.train()
    torch.testing.assert_close(model[:5](images), before, rtol=2e-3, atol=2e-3)  # unbiased variance


def test_folded_layers_are_recognized_in_64_bits_and_after_rounding_to_16() -> None:
    model = folded_network()
    assert folded_batch_norms(model) == [model[1], model[4]]
    assert folded_batch_norms(model.double()) == [model[1], model[4]]
    rounded = nn.Sequential(BatchNorm2d(4, eps=1e-3), BatchNorm2d(4, eps=1e-3))  # TensorFlow's
    rounded[0].running_var.fill_(1 - 1e-3)
    assert folded_batch_norms(rounded.half().float()) == [rounded[0]]


@pytest.mark.parametrize(
    ("statistics", "value"), [("running_var", 1.0), ("running_var", 0.99998), ("running_mean", 1e-6)]
)
def test_layers_with_statistics_of_their_own_are_not_folded(statistics: str, value: float) -> None:
    layer = BatchNorm2d(3)
    layer.running_var.fill_(1 - layer.eps)
    getattr(layer, statistics)[1] = value
    assert not folded_batch_norms(layer)


def test_a_folded_layer_that_stays_frozen_is_not_unfolded() -> None:
    model = freeze_batch_norm(folded_network())
    unfold_batch_norm(model, [torch.randn(2, 3, 9, 9)])
    assert not model[1].running_mean.any()


def test_recalibration_leaves_frozen_parts_as_they_are() -> None:
    model = create_model("deeplab_v3.mobilenet_v2", width=0.125).freeze("backbone").train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    recalibrate_batch_norm(model, [torch.randn(2, 3, 33, 33)])
    changed = {key.split(".")[0] for key, value in model.state_dict().items() if not torch.equal(value, before[key])}
    assert changed == {"aspp"}
    assert model.aspp.training
    assert not model.backbone.training


def test_no_batches_is_an_error_that_changes_nothing() -> None:
    layer = BatchNorm2d(2)
    with pytest.raises(AtrousError, match="there are no batches"):
        recalibrate_batch_norm(layer, [])
    assert torch.equal(layer.running_var, torch.ones(2))


class TestBatchNorm:
    def test_one_value_per_channel_uses_the_running_statistics(self) -> None:
        norm = BatchNorm2d(4).train()
        nn.init.normal_(norm.running_mean)
        before = norm.running_mean.clone()
        x = torch.randn(1, 4, 1, 1, requires_grad=True)
        y = norm(x)
        y.sum().backward()
        torch.testing.assert_close(y[0, :, 0, 0], (x[0, :, 0, 0] - before) / math.sqrt(1 + norm.eps))
        assert torch.equal(norm.running_mean, before)
        assert x.grad is not None
        assert norm.weight.grad is not None

    def test_otherwise_equals_torch(self) -> None:
        ours, theirs = BatchNorm2d(4), nn.BatchNorm2d(4)
        x = torch.randn(2, 4, 3, 3)
        for mode in (True, False):
            torch.testing.assert_close(ours.train(mode)(x), theirs.train(mode)(x))
        assert ours.state_dict().keys() == theirs.state_dict().keys()

    def test_frozen_statistics_survive_train(self) -> None:
        model = create_model("deeplab_v3.mobilenet_v2", width=0.125)
        freeze_batch_norm(model, affine=True).train()
        norms = [layer for layer in model.modules() if isinstance(layer, BatchNorm2d)]
        before = [norm.running_mean.clone() for norm in norms]
        model(torch.randn(2, 3, 33, 33))
        assert all(torch.equal(norm.running_mean, mean) for norm, mean in zip(norms, before, strict=True))
        assert not any(norm.weight.requires_grad for norm in norms)
        unfreeze_batch_norm(model)
        model(torch.randn(2, 3, 33, 33))
        assert not all(torch.equal(norm.running_mean, mean) for norm, mean in zip(norms, before, strict=True))
        assert all(norm.weight.requires_grad for norm in norms)


def test_channels_first_layer_norm_normalizes_each_pixel_over_its_channels() -> None:
    layer = LayerNorm2d(6)
    nn.init.normal_(layer.weight)
    nn.init.normal_(layer.bias)
    x = 3 * torch.randn(2, 6, 4, 5) + 1
    expected = (x - x.mean(1, keepdim=True)) / (x.var(1, keepdim=True, correction=0) + 1e-6).sqrt()
    expected = expected * layer.weight[:, None, None] + layer.bias[:, None, None]
    torch.testing.assert_close(layer(x), expected)
    assert layer(x).is_contiguous(memory_format=torch.channels_last)
