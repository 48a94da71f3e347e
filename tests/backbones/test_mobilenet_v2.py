"""MobileNetV2 as other libraries have it."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from atrous import AtrousError
from atrous.backbones import create_backbone
from tests.contract.trained import imitate_training

SMALL = {"width": 0.35}


@torch.no_grad()
@pytest.mark.parametrize("options", [{"last_conv": True}, {"stages": 3}, {"norm_eps": 1e-5}])
def test_dense_features_sampled_equal_the_strided_ones(options: dict) -> None:
    backbone = create_backbone("mobilenet_v2", **SMALL, **options).eval()
    imitate_training(backbone)
    image = torch.randn(1, 3, 65, 97)
    coarse = backbone.native_strides[-1]
    strided = backbone(image)[-1]
    backbone.set_output_stride(8)
    dense = backbone(image)[-1][..., :: coarse // 8, :: coarse // 8]
    assert (dense - strided).abs().max() <= 1e-4 * strided.std()


def test_stages_end_the_network_early_and_the_last_convolution_widens_it() -> None:
    assert create_backbone("mobilenet_v2").channels == (24, 32, 96, 320)
    assert create_backbone("mobilenet_v2", last_conv=True).channels == (24, 32, 96, 1280)
    short = create_backbone("mobilenet_v2", stages=2)
    assert short.channels == (24, 32)
    assert short.strides == (4, 8)
    assert [tuple(x.shape[1:]) for x in short(torch.rand(1, 3, 33, 65))] == [(24, 9, 17), (32, 5, 9)]


def test_a_classifier_has_the_last_convolution_once() -> None:
    backbone = create_backbone("mobilenet_v2", num_classes=10, last_conv=True, **SMALL)
    assert len(backbone.features) == 19
    assert backbone.channels[-1] == 112
    assert backbone.classify(torch.rand(2, 3, 32, 32)).shape == (2, 10)


def test_whole_stages_dilate_the_convolution_that_loses_its_stride() -> None:
    backbone = create_backbone("mobilenet_v2", whole_stage=True, **SMALL)
    backbone.set_output_stride(16)
    depthwise = [
        layer for layer in backbone.features[14].modules() if isinstance(layer, nn.Conv2d) and layer.groups > 1
    ]
    assert depthwise[0].dilation == (2, 2)


@torch.no_grad()
def test_padding_before_the_expansion_changes_the_borders_alone() -> None:
    """Where no zero of the padding reaches, the two networks agree; the stem that pads nothing shifts nothing else."""
    paddings = ("symmetric", "before_expansion")
    symmetric, before = (create_backbone("mobilenet_v2", padding=padding, **SMALL).eval() for padding in paddings)
    imitate_training(symmetric)
    before.load_state_dict(symmetric.state_dict())
    block, padded = symmetric.features[3], before.features[3]
    x = torch.randn(1, 8, 9, 9)
    ours, theirs = block(x), padded(x)
    torch.testing.assert_close(ours[..., 1:-1, 1:-1], theirs[..., 1:-1, 1:-1])
    assert (ours - theirs).abs().max() > 1e-3


@pytest.mark.parametrize("options", [{"stages": 1}, {"stages": 5}, {"stages": 3, "last_conv": True}])
def test_impossible_stages_are_refused(options: dict) -> None:
    with pytest.raises(AtrousError, match="choose 2, 3 or 4"):
        create_backbone("mobilenet_v2", **options)
