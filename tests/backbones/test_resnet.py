"""ResNet: dilation of whole stages, and multi-grid."""

from __future__ import annotations

import pytest
import torch

from atrous import AtrousError
from atrous.backbones import create_backbone


@torch.no_grad()
def test_dilating_the_whole_stage_as_caffe_did_is_something_else() -> None:
    """segmentation_models.pytorch does this by mistake; here it has a name, and is off."""
    backbone = create_backbone("resnet50", width=0.25, whole_stage=True).eval()
    image = torch.randn(1, 3, 161, 129)
    strided = backbone(image)[-1]
    backbone.set_output_stride(8)
    sampled = backbone(image)[-1][..., ::4, ::4]
    assert (sampled - strided).abs().max() > 0.5 * strided.std()
    assert backbone.layer4[0].conv2.dilation == (4, 4)
    assert backbone.layer3[0].conv2.dilation == (2, 2)


def test_multi_grid_multiplies_the_dilations_of_the_last_stage() -> None:
    backbone = create_backbone("resnet101_beta", width=0.125)
    backbone.set_multi_grid((1, 2, 4))
    for stride, rate in ((32, 1), (16, 2), (8, 4)):
        backbone.set_output_stride(stride)
        assert [unit.conv2.dilation[0] for unit in backbone.layer4] == [rate, 2 * rate, 4 * rate]
    with pytest.raises(AtrousError, match="takes 3 factors"):
        backbone.set_multi_grid((1, 2))
    with pytest.raises(AtrousError, match="takes 0 factors"):
        create_backbone("mobilenet_v2").set_multi_grid((1, 2, 4))


def test_the_stem_of_v1c_and_networks_that_end_early() -> None:
    backbone = create_backbone("resnet50", stem="v1c", stages=2)
    assert [conv.out_channels for conv in backbone.conv1 if isinstance(conv, torch.nn.Conv2d)] == [32, 32, 64]
    assert backbone.channels == (256, 512)
    assert backbone.strides == (4, 8)
    assert [tuple(x.shape[1:]) for x in backbone(torch.rand(1, 3, 33, 65))] == [(256, 9, 17), (512, 5, 9)]
    with pytest.raises(AtrousError, match="stages 1"):
        create_backbone("resnet50", stages=1)
