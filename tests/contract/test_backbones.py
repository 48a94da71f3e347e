"""Contract of every registered backbone, at a small width."""

from __future__ import annotations

import pytest
import torch

from atrous import AtrousError
from atrous.backbones import BACKBONES, Backbone, create_backbone, list_backbones
from tests.contract.trained import imitate_training

EVERY_BACKBONE = pytest.mark.parametrize("name", list_backbones())


def trained_like(name: str, **options) -> Backbone:
    """Build a narrow backbone in evaluation mode that behaves like a trained one."""
    backbone = create_backbone(name, width=0.25, **options)
    imitate_training(backbone)
    return backbone.eval()


@EVERY_BACKBONE
@torch.no_grad()
def test_dense_features_sampled_equal_the_strided_ones(name: str) -> None:
    """Atrous consistency: the definition of atrous convolution."""
    backbone = trained_like(name)
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


@EVERY_BACKBONE
@pytest.mark.parametrize("stride", [32, 16, 8])
@torch.no_grad()
def test_channels_and_strides_match_the_maps(name: str, stride: int) -> None:
    backbone = trained_like(name)
    backbone.set_output_stride(stride)
    maps = backbone(torch.randn(1, 3, 129, 97))
    assert [m.shape[1] for m in maps] == list(backbone.channels)
    assert [m.shape[2] for m in maps] == [128 // s + 1 for s in backbone.strides]
    assert [m.shape[3] for m in maps] == [96 // s + 1 for s in backbone.strides]


@EVERY_BACKBONE
@torch.no_grad()
def test_every_stride_that_is_offered_works(name: str) -> None:
    backbone = trained_like(name)
    image = torch.randn(1, 3, 33, 33)
    for stride in backbone.possible_output_strides():
        backbone.set_output_stride(stride)
        assert backbone(image)[-1].shape[-2:] == (32 // stride + 1,) * 2
    with pytest.raises(AtrousError, match="output_stride 3: this network runs at"):
        backbone.set_output_stride(3)


@EVERY_BACKBONE
def test_a_classifier_loads_into_a_classifier_and_into_a_backbone(name: str) -> None:
    """Batch statistics included; without a classifier its keys are passed over."""
    classifier = trained_like(name, num_classes=10)
    again = create_backbone(name, num_classes=10, width=0.25).eval()
    again.load_state_dict(classifier.state_dict())
    features = create_backbone(name, width=0.25).eval()
    result = features.load_state_dict(classifier.state_dict())
    assert not result.missing_keys
    assert not result.unexpected_keys
    image = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        logits = classifier.classify(image)
        assert logits.shape == (2, 10)
        assert torch.equal(logits, again.classify(image))
        assert torch.equal(features(image)[-1], classifier(image)[-1])
        with pytest.raises(AtrousError, match="no classifier"):
            features.classify(image)


@EVERY_BACKBONE
def test_trains_at_batch_1_and_every_parameter_gets_a_gradient(name: str) -> None:
    backbone = trained_like(name, in_channels=4, num_classes=3).train()
    (backbone.classify(torch.randn(1, 4, 70, 45)) ** 2).mean().backward()
    assert not [key for key, parameter in backbone.named_parameters() if parameter.grad is None]


@EVERY_BACKBONE
def test_pretrained_weights_name_their_file_and_normalization(name: str) -> None:
    backbone = create_backbone(name, width=0.25)
    assert backbone.name == name
    assert BACKBONES.entry(name).paper is not None
    for weights in backbone.pretrained.values():
        assert bool(weights.url) != bool(weights.package and weights.file)
        assert len(weights.sha256) >= 8
        assert int(weights.sha256, 16) >= 0
        assert all(0 <= mean <= 255 for mean in weights.mean)
        assert all(0 < std <= 255 for std in weights.std)
        assert weights.license
