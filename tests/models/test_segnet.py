"""SegNet: pooling indices, odd sizes, Monte Carlo samples."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from atrous import AtrousError, create_model
from atrous.models.segnet import max_pool, max_unpool


@pytest.mark.parametrize("size", [(6, 8), (45, 60), (23, 31), (1, 1)])
def test_pooling_after_unpooling_is_the_identity(size: tuple[int, int]) -> None:
    pooled, indices = max_pool(torch.rand(2, 3, *size))
    back = max_unpool(pooled, indices, size)
    assert back.shape == (2, 3, *size)
    again, same = max_pool(back)
    assert torch.equal(again, pooled)
    assert torch.equal(same, indices)
    assert (back > 0).sum() == (pooled > 0).sum()


def test_unpooling_equals_torch() -> None:
    pooled, indices = max_pool(torch.randn(2, 3, 10, 14))
    assert torch.equal(max_unpool(pooled, indices, (10, 14)), F.max_unpool2d(pooled, indices, 2))


def test_sizes_of_the_paper() -> None:
    """360x480: the third and fourth poolings round up, and unpooling must give 45x60 and 23x30 again."""
    with torch.device("meta"):
        model = create_model("segnet.vgg16", width=0.125, num_classes=11).eval()
    sizes = []
    for stage in model.decoder:
        stage.register_forward_pre_hook(lambda _, inputs: sizes.append(tuple(inputs[0].shape[2:])))
    image = torch.empty(1, 3, 360, 480, device="meta")
    assert model(image).shape == (1, 11, 360, 480)
    assert sizes == [(23, 30), (45, 60), (90, 120), (180, 240), (360, 480)]
    maps = model.backbone(image)
    assert [tuple(m.shape[2:]) for m in maps] == [(180, 240), (90, 120), (45, 60), (23, 30), (12, 15)]


def test_the_decoder_mirrors_the_encoder() -> None:
    model = create_model("segnet.vgg16", num_classes=11, width=1.0)
    widths = [[conv[0].out_channels for conv in stage] for stage in model.decoder]
    assert widths == [[512, 512, 512], [512, 512, 256], [256, 256, 128], [128, 64], [64]]
    assert model.classifier.kernel_size == (3, 3)
    basic = create_model("segnet.basic", num_classes=11)
    assert not any(isinstance(layer, nn.ReLU) for layer in basic.decoder.modules())
    assert basic.classifier.kernel_size == (1, 1)


def test_encoder_has_the_keys_of_torchvision_vgg16_bn() -> None:
    model = create_model("segnet.vgg16", width=0.125)
    names = set(model.backbone.state_dict())
    assert {"features.0.weight", "features.0.bias", "features.1.running_mean", "features.41.weight"} <= names


@pytest.mark.parametrize("name", ["segnet.vgg16", "segnet.basic"])
def test_strides_cannot_become_dilations(name: str) -> None:
    model = create_model(name, width=0.125)
    stride = 32 if name == "segnet.vgg16" else 16
    assert model.output_stride == stride
    with pytest.raises(AtrousError, match=rf"output_stride 8: this network runs at {stride}\.$"):
        model.set_output_stride(8)


@pytest.mark.parametrize(("name", "places"), [("bayesian_segnet.vgg16", 6), ("bayesian_segnet.basic", 4)])
def test_dropout_is_around_the_bottleneck(name: str, places: int) -> None:
    model = create_model(name, width=0.125)
    calls = []
    model.dropout.register_forward_hook(lambda *_: calls.append(1))
    model(torch.randn(1, 3, 32, 32))
    assert len(calls) == places


def test_monte_carlo_is_the_mean_and_variance_of_the_samples() -> None:
    model = create_model("bayesian_segnet.basic", width=0.25, num_classes=4)
    model.train()
    image = torch.randn(2, 3, 33, 20)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    torch.manual_seed(3)
    mean, variance = model.monte_carlo(image, samples=6)
    assert all(module.training for module in model.modules())
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    model.eval()
    model.dropout.train()
    torch.manual_seed(3)
    with torch.no_grad():
        samples = torch.stack([model(image).softmax(1) for _ in range(6)])
    torch.testing.assert_close(mean, samples.mean(0))
    torch.testing.assert_close(variance, samples.var(0, unbiased=False))
    assert variance.max() > 0
    torch.testing.assert_close(mean.sum(1), torch.ones(2, 33, 20))


def test_invalid_arguments() -> None:
    with pytest.raises(AtrousError, match="has no dropout"):
        create_model("segnet.basic", width=0.125).monte_carlo(torch.randn(1, 3, 8, 8))
    for name, stages in (("segnet.vgg16", 5), ("bayesian_segnet.basic", 4)):
        for bayesian in (-1, stages + 1):
            with pytest.raises(AtrousError, match=f"bayesian {bayesian}: choose 0 to {stages}"):
                create_model(name, width=0.125, bayesian=bayesian)
    with pytest.raises(AtrousError, match="samples 0: Monte Carlo sampling needs 1 or more"):
        create_model("bayesian_segnet.basic", width=0.125).monte_carlo(torch.randn(1, 3, 8, 8), samples=0)


@pytest.mark.parametrize(
    "options",
    [{"pool_kernels": (3,) * 5}, {"average_pool": True}, {"fc": {}}, {"dilate_pools": False}, {"padding": 0}],
)
def test_options_of_the_encoder_that_the_decoder_cannot_reverse(options: dict) -> None:
    with pytest.raises(AtrousError, match=f"backbone_options: {next(iter(options))} is fixed in SegNet"):
        create_model("segnet.vgg16", width=0.125, backbone_options=options)
