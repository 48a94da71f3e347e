"""The definition of atrous convolution: denser features contain the sparser ones, exactly."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from atrous import AtrousError
from atrous.backbones import create_backbone, list_backbones


def trained_looking(name: str, **options) -> nn.Module:
    backbone = create_backbone(name, width=0.25, **options)
    for layer in backbone.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.normal_(layer.running_mean, std=0.1)
            nn.init.uniform_(layer.running_var, 0.5, 2.0)
            nn.init.uniform_(layer.weight, 0.5, 1.5)
            nn.init.normal_(layer.bias, std=0.1)
    return backbone.eval()


@pytest.mark.parametrize("name", list_backbones())
@torch.no_grad()
def test_dense_features_sampled_equal_the_strided_ones(name: str) -> None:
    backbone = trained_looking(name)
    image = torch.randn(2, 3, 161, 129)  # 32 k + 1
    strided = backbone(image)[-1]
    assert strided.std() > 1e-3
    for stride in (16, 8):
        backbone.set_output_stride(stride)
        step = 32 // stride
        dense = backbone(image)[-1]
        assert (dense[..., ::step, ::step] - strided).abs().max() <= 1e-4 * strided.std()
        if step > 1:
            assert not torch.equal(dense[..., 1::step, 1::step], strided[..., :-1, :-1])
    backbone.set_output_stride(32)
    assert torch.equal(backbone(image)[-1], strided)


@pytest.mark.parametrize("name", list_backbones())
@pytest.mark.parametrize("stride", [32, 16, 8])
@torch.no_grad()
def test_channels_and_strides_tell_the_truth(name: str, stride: int) -> None:
    backbone = trained_looking(name)
    backbone.set_output_stride(stride)
    maps = backbone(torch.randn(1, 3, 129, 97))
    assert [m.shape[1] for m in maps] == list(backbone.channels)
    assert [m.shape[2] for m in maps] == [128 // s + 1 for s in backbone.strides]
    assert [m.shape[3] for m in maps] == [96 // s + 1 for s in backbone.strides]


@torch.no_grad()
def test_dilating_the_whole_stage_as_caffe_did_is_something_else() -> None:
    """segmentation_models.pytorch does this by mistake; here it has a name, and is off."""
    backbone = trained_looking("resnet50", whole_stage=True)
    image = torch.randn(1, 3, 161, 129)
    strided = backbone(image)[-1]
    backbone.set_output_stride(8)
    sampled = backbone(image)[-1][..., ::4, ::4]
    assert (sampled - strided).abs().max() > 0.5 * strided.std()
    assert backbone.layer4[0].conv2.dilation == (4, 4)
    assert backbone.layer3[0].conv2.dilation == (2, 2)


@pytest.mark.parametrize("name", list_backbones())
@torch.no_grad()
def test_every_stride_that_is_offered_works(name: str) -> None:
    backbone = trained_looking(name)
    image = torch.randn(1, 3, 33, 33)
    for stride in backbone.possible_output_strides():
        backbone.set_output_stride(stride)
        assert backbone(image)[-1].shape[-2:] == (32 // stride + 1,) * 2
    with pytest.raises(AtrousError, match="output_stride 3: this network runs at"):
        backbone.set_output_stride(3)


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


def test_torchvision_classifiers_load_unchanged() -> None:
    """With its 1000 classes the classifier is there, without them its keys are passed over."""
    for name in ("resnet50", "mobilenet_v2", "vgg16", "vgg16_bn"):
        classifier = create_backbone(name, num_classes=10, width=0.25).eval()
        trunk = create_backbone(name, width=0.25).eval()
        result = trunk.load_state_dict(classifier.state_dict())
        assert not result.missing_keys
        assert not result.unexpected_keys
        image = torch.randn(2, 3, 64, 64)
        assert classifier.classify(image).shape == (2, 10)
        assert torch.equal(trunk(image)[-1], classifier(image)[-1])
        with pytest.raises(AtrousError, match="no classifier"):
            trunk.classify(image)
