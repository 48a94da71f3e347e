"""MobileNetV2: channels at every width, and the maps that TensorFlow's decoder takes."""

from __future__ import annotations

import pytest
import torch

from atrous.backbones import create_backbone
from atrous.backbones.mobilenet_v2 import block_channels, find_width
from atrous.layers.meta import meta_device


@pytest.mark.parametrize("width", [0.1, 0.35, 0.5, 0.75, 1.0, 1.3, 1.4])
@pytest.mark.parametrize("divisor", [1, 8])
def test_the_width_is_found_from_the_channels(width: float, divisor: int) -> None:
    channels = block_channels(width, divisor)
    assert block_channels(*find_width(channels)) == channels
    assert find_width([*channels[:5], channels[5] + 50, *channels[6:]]) is None


def test_expanded_channels_are_multiples_of_8_at_every_width() -> None:
    """As in TensorFlow, whose `expand_input_by_factor` rounds; MobileNetV2 x0.75 has 18 channels, 108 before that."""
    with meta_device():
        backbone = create_backbone("mobilenet_v2", width=0.75, divisor=1)
    units = backbone.blocks()[2:]
    assert units[1].conv[0][0].weight.shape[:2] == (112, 18)
    assert all(unit.hidden_channels % 8 == 0 for unit in units)


@torch.no_grad()
def test_maps_after_the_depthwise_convolution() -> None:
    backbone = create_backbone("mobilenet_v2", maps_from="depthwise").eval()
    captured = []
    for index in (3, 6, 13):  # `layer_4`, `layer_7` and `layer_14` in TensorFlow
        backbone.features[index].conv[1].register_forward_hook(lambda module, args, output: captured.append(output))
    image = torch.randn(1, 3, 65, 97)
    maps = backbone(image)
    assert backbone.channels == (144, 192, 576, 320) == tuple(each.shape[1] for each in maps)
    assert all(torch.equal(ours, output) for ours, output in zip(maps, captured, strict=False))
    other = create_backbone("mobilenet_v2").eval()
    other.load_state_dict(backbone.state_dict())
    torch.testing.assert_close(other(image)[-1], maps[-1])


def test_maps_after_the_depthwise_convolution_keep_their_strides() -> None:
    backbone = create_backbone("mobilenet_v2", width=0.25, maps_from="depthwise").eval()
    backbone.set_output_stride(8)
    sizes = [tuple(each.shape[2:]) for each in backbone(torch.zeros(1, 3, 65, 97))]
    assert sizes == [(17, 25), (9, 13), (9, 13), (9, 13)]
