"""MobileNetV3: squeeze-and-excite on dense maps, torchvision's dilated layout, the reduced tail."""

from __future__ import annotations

import pytest
import torch

from atrous.backbones import create_backbone
from atrous.backbones.mobilenet_v3 import SqueezeExcite

NAMES = pytest.mark.parametrize("name", ["mobilenet_v3_large", "mobilenet_v3_small"])


@torch.no_grad()
def test_squeeze_and_excite_averages_the_pixels_of_the_strided_map() -> None:
    """Atrous consistency needs it: the average of all pixels of a dense map is another one."""
    layer = SqueezeExcite(32)
    dense = torch.randn(2, 32, 9, 13)
    strided = layer(dense[..., ::4, ::4])
    assert (layer(dense)[..., ::4, ::4] - strided).abs().max() > 1e-2
    layer.step = 4
    torch.testing.assert_close(layer(dense)[..., ::4, ::4], strided)


@NAMES
@pytest.mark.parametrize(("stride", "steps"), [(32, {1}), (16, {1, 2}), (8, {1, 2, 4})])
def test_steps_follow_the_output_stride(name: str, stride: int, steps: set[int]) -> None:
    exact, torchvision = (create_backbone(name, width=0.25, layout=layout) for layout in ("exact", "torchvision"))
    for backbone, expected in ((exact, steps), (torchvision, {1})):
        backbone.set_output_stride(8)
        backbone.set_output_stride(stride)
        assert {layer.step for layer in backbone.modules() if isinstance(layer, SqueezeExcite)} == expected


@NAMES
def test_the_layout_of_torchvision(name: str) -> None:
    """From block C4 on every depthwise convolution is dilated; the maps are those of the blocks with the stride."""
    backbone = create_backbone(name, width=0.25, layout="torchvision")
    backbone.set_output_stride(16)
    depthwise = [conv for conv in backbone.modules() if isinstance(conv, torch.nn.Conv2d) and conv.groups > 1]
    assert [conv.dilation[0] for conv in depthwise[-3:]] == [2, 2, 2]
    assert {conv.dilation[0] for conv in depthwise[:-3]} == {1}
    exact = create_backbone(name, width=0.25)
    exact.set_output_stride(16)
    depthwise = [conv for conv in exact.modules() if isinstance(conv, torch.nn.Conv2d) and conv.groups > 1]
    assert [conv.dilation[0] for conv in depthwise[-3:]] == [1, 2, 2]


@pytest.mark.parametrize(
    ("name", "exact", "torchvision"),
    [
        ("mobilenet_v3_large", (24, 40, 112, 960), (24, 40, 80, 960)),
        ("mobilenet_v3_small", (16, 24, 48, 576), (16, 24, 40, 576)),
    ],
)
def test_maps_and_the_reduced_tail(name: str, exact: tuple[int, ...], torchvision: tuple[int, ...]) -> None:
    with torch.device("meta"):
        for layout, channels in (("exact", exact), ("torchvision", torchvision)):
            backbone = create_backbone(name, layout=layout)
            backbone.set_output_stride(16)
            maps = backbone(torch.empty(1, 3, 513, 513))
            assert backbone.channels == channels
            assert [tuple(each.shape[1:3]) for each in maps] == list(zip(channels, (129, 65, 33, 33), strict=True))
        assert create_backbone(name, reduced_tail=True).channels == (*exact[:3], exact[3] // 2)
