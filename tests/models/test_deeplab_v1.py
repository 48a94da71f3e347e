"""DeepLab v1: the released geometry, the fields of view of table 2, multi-scale branches."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from atrous import AtrousError, create_model
from atrous.layers.pool import CeilMaxPool2d


def convs(module: nn.Module) -> list[nn.Conv2d]:
    return [layer for layer in module.modules() if isinstance(layer, nn.Conv2d)]


def test_feature_map_sizes_of_large_fov_for_321_pixels() -> None:
    model = create_model("deeplab_v1.vgg16", width=0.125).eval()
    assert [m.shape[2] for m in model.backbone(torch.randn(1, 3, 321, 17))] == [161, 81, 41, 41, 41]


def test_released_geometry_of_the_vgg_line() -> None:
    model = create_model("deeplab_v1.vgg16", width=0.125)
    pools = [unit for unit in model.backbone.features if isinstance(unit, CeilMaxPool2d)]
    assert [pool.stride if isinstance(pool.stride, int) else pool.stride[0] for pool in pools] == [2, 2, 2, 1, 1]
    assert {pool.kernel_size for pool in pools} == {3}
    assert {pool.dilation for pool in pools} == {(1, 1)}
    assert [conv.dilation[0] for conv in convs(model.backbone.features)] == [1] * 10 + [2] * 3
    assert isinstance(model.backbone.pool5a, nn.AvgPool2d)
    assert create_model("deeplab_v2.vgg16", width=0.125).backbone.pool5a is None


@pytest.mark.parametrize(
    ("name", "fov", "kernels", "shift"),
    [
        ("deeplab_v1.vgg16", "large", [3, 3, 3, 3, 3], 0),
        ("deeplab_v1.vgg16", "7x7", [2, 2, 2, 2, 3], -0.5),
        ("deeplab_v1.vgg16", "4x4", [2, 2, 2, 2, 3], -0.5),
        ("deeplab_v1.vgg16", "small", [2, 2, 2, 2, 3], -0.5),
        ("deeplab_v1_msc.vgg16", "small", [3, 3, 3, 3, 3], 0),
    ],
)
def test_released_pooling_of_every_field_of_view(name: str, fov: str, kernels: list[int], shift: float) -> None:
    """train.prototxt of DeepLab and DeepLab-MSc; windows are centered on every eighth pixel, within half a pixel."""
    model = create_model(name, width=0.125, fov=fov)
    pools = nn.Sequential(*(unit for unit in model.backbone.features if isinstance(unit, CeilMaxPool2d)))
    assert [pool.kernel_size for pool in pools] == kernels
    pixels = torch.arange(161.0).expand(1, 1, 161, 161)
    centers = (pools(pixels) - pools(-pixels)) / 2
    assert centers.shape == (1, 1, 21, 21)
    assert torch.equal(centers[0, 0, 10, 4:-4], 8 * torch.arange(21)[4:-4] + shift)


@pytest.mark.parametrize(
    ("fov", "kernel", "rate", "pixels"),
    [("large", 3, 12, 224), ("7x7", 7, 4, 224), ("4x4", 4, 8, 224), ("small", 4, 4, 128)],
)
def test_fields_of_view_of_table_2(fov: str, kernel: int, rate: int, pixels: int) -> None:
    """The paper counts, roughly, in pixels of the image: the taps of fc6, 8 pixels apart, and a last one of 8 x 4."""
    model = create_model("deeplab_v1.vgg16", width=0.125, fov=fov)
    fc6 = model.backbone.classifier[0]
    assert fc6.kernel_size == (kernel, kernel)
    assert fc6.dilation == (rate, rate)
    assert 8 * (kernel - 1) * rate + 32 == pytest.approx(pixels, abs=8)


def test_initialization_of_the_multi_scale_branches() -> None:
    """train.prototxt of DeepLab-MSc: 0.001 in the first two layers, but 0.005 in pool4's second, 0.01 in the last."""
    model = create_model("deeplab_v1_msc.vgg16", num_classes=200)
    stds = [[conv.weight.std().item() for conv in convs(branch)] for branch in model.branches]
    for number, branch in enumerate(stds):
        assert branch == pytest.approx([0.001, 0.005 if number == 4 else 0.001, 0.01], rel=0.05)


def test_multi_scale_branches_are_strided_in_training_only() -> None:
    model = create_model("deeplab_v1_msc.vgg16", width=0.125, num_classes=3)
    image = torch.randn(1, 3, 65, 49)
    sizes = []
    for branch in model.branches:
        branch.register_forward_hook(lambda _, inputs, out: sizes.append(tuple(out.shape[2:])))
    model.train()(image)
    assert sizes == [(9, 7)] * 5
    sizes.clear()
    model.eval()(image)
    assert sizes == [(65, 49), (33, 25), (17, 13), (9, 7), (9, 7)]


@torch.no_grad()
def test_multi_scale_branches_agree_at_shared_samples() -> None:
    model = create_model("deeplab_v1_msc.vgg16", width=0.125, num_classes=3).eval()
    for branch in model.branches:
        for conv in convs(branch):
            nn.init.kaiming_normal_(conv.weight)
    image = torch.randn(1, 3, 65, 49)
    torch.testing.assert_close(model(image)[..., ::8, ::8], model.scores(image), rtol=1e-3, atol=1e-4)


def test_invalid_arguments() -> None:
    with pytest.raises(AtrousError, match=r"fov as 'large' \| .* \| 'small', not 'larg'\. Did you mean 'large'"):
        create_model("deeplab_v1.vgg16", width=0.125, fov="larg")
    with pytest.raises(AtrousError, match="output_stride 32: this network runs at 1, 2, 4, 8, 16"):
        create_model("deeplab_v1.vgg16", width=0.125, fov="small").set_output_stride(32)
