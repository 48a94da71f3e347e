"""PSPNet: pyramid pooling with its ablations, and the windows of the released networks."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from atrous import AtrousError, create_model
from atrous.models.pspnet import PyramidPooling

NAME = "pspnet.resnet50"


@pytest.mark.parametrize(("crop", "side", "windows"), [(473, 60, [60, 30, 20, 10]), (713, 90, [90, 45, 30, 15])])
def test_windows_of_the_released_networks(crop: int, side: int, windows: list[int]) -> None:
    with torch.device("meta"):
        model = create_model(NAME, pooling_crop=(crop, crop)).eval()
    assert model.backbone(torch.empty(1, 3, crop, crop, device="meta"))[-1].shape == (1, 2048, side, side)
    assert model.pyramid.windows() == [(window, window) for window in windows]


@torch.no_grad()
def test_fixed_windows_are_the_bins_at_the_size_of_the_crop() -> None:
    free = create_model(NAME, width=0.125).eval()
    fixed = create_model(NAME, width=0.125, pooling_crop=(473, 473)).eval()
    fixed.load_state_dict(free.state_dict())
    features = torch.randn(1, 256, 60, 60)
    torch.testing.assert_close(fixed.pyramid(features), free.pyramid(features))
    for height, width in ((300, 520), (20, 700), (1, 1)):
        image = torch.randn(1, 3, height, width)
        assert fixed(image).shape == (1, 21, height, width)


def test_fixed_windows_keep_their_size_in_the_image() -> None:
    model = create_model(NAME, width=0.125, pooling_crop=(473, 473))
    model.set_output_stride(16)
    assert model.pyramid.windows() == [(30, 30), (15, 15), (10, 10), (5, 5)]


@pytest.mark.parametrize("pool", ["average", "max"])
@torch.no_grad()
def test_bins_are_those_of_adaptive_pooling(pool: str) -> None:
    pyramid = PyramidPooling(4, bins=(1, 3), pool=pool, reduce=False).eval()
    x = torch.randn(2, 4, 7, 11)
    y = pyramid(x)
    assert y.shape[1] == pyramid.out_channels == 12
    assert torch.equal(y[:, :4], x)
    whole = x.mean((2, 3), keepdim=True) if pool == "average" else x.amax((2, 3), keepdim=True)
    torch.testing.assert_close(y[:, 4:8], whole.expand(-1, -1, 7, 11))
    thirds = (F.adaptive_avg_pool2d if pool == "average" else F.adaptive_max_pool2d)(x, 3)
    torch.testing.assert_close(y[:, 8:, ::6, ::10], thirds[..., ::2, ::2])  # corners coincide


@pytest.mark.parametrize(
    ("options", "channels"),
    [
        ({}, 4096),
        ({"reduce": False}, 5 * 2048),
        ({"bins": (1,), "reduce": False}, 2 * 2048),
        ({"bins": (1, 2, 3, 6), "pool": "max"}, 4096),
        ({"bins": (1, 2, 4)}, 2048 + 3 * 682),
    ],
)
def test_pyramids_of_the_ablation(options: dict, channels: int) -> None:
    with torch.device("meta"):
        model = create_model(NAME, **options).eval()
    assert model.classifier[0][0].weight.shape == (512, channels, 3, 3)
    assert model(torch.empty(1, 3, 97, 65, device="meta")).shape == (1, 21, 97, 65)


def test_the_auxiliary_head_on_the_fourth_stage_has_loss_weight_0_4() -> None:
    model = create_model(NAME, width=0.125)
    assert [weight for _, weight in model.training_outputs(torch.randn(2, 3, 33, 33))] == [1.0, 0.4]
    with torch.device("meta"):
        assert create_model(NAME).auxiliary[0][0].weight.shape == (256, 1024, 3, 3)
    alone = create_model(NAME, width=0.125, auxiliary=False)
    assert len(alone.training_outputs(torch.randn(2, 3, 33, 33))) == 1


def test_released_networks_dilate_whole_stages() -> None:
    exact = create_model(NAME, width=0.125).backbone
    released = create_model(NAME, width=0.125, whole_stage=True).backbone
    assert [unit.conv2.dilation[0] for unit in exact.layer4] == [2, 4, 4]
    assert [unit.conv2.dilation[0] for unit in released.layer4] == [4, 4, 4]
    assert [unit.conv2.dilation[0] for unit in released.layer3] == [2] * 6


def test_invalid_arguments() -> None:
    for options in ({"bins": ()}, {"bins": (0, 1)}):
        with pytest.raises(AtrousError, match="give at least one number of bins"):
            create_model(NAME, width=0.125, **options)


@torch.no_grad()
def test_a_refused_output_stride_leaves_the_pooling_windows() -> None:
    model = create_model("pspnet.resnet50", width=0.125, pooling_crop=(473, 473)).eval()
    windows = model.pyramid.windows()
    with pytest.raises(AtrousError, match="output_stride 12: this network runs at"):
        model.set_output_stride(12)
    assert model.pyramid.windows() == windows
