"""FCN: padding and crops, fixed upsampling, zero scores, and the variant that resizes."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from atrous import AtrousError, create_model
from atrous.layers.resize import resize

RELEASED = ["fcn_32s.vgg16", "fcn_16s.vgg16", "fcn_8s.vgg16", "fcn_8s_at_once.vgg16"]


def scored(name: str, **options) -> nn.Module:
    """Build a tiny network with random score layers."""
    model = create_model(name, width=0.125, num_classes=4, **options).eval()
    for layer in (model.score, *(skip[-1] for skip in model.score_skips)):
        nn.init.normal_(layer.weight)
    return model


@pytest.mark.parametrize("name", RELEASED)
def test_initial_logits_are_zero(name: str) -> None:
    assert not create_model(name, width=0.125)(torch.randn(1, 3, 40, 50)).any()


@pytest.mark.parametrize("name", RELEASED)
def test_only_fixed_upsampling_and_scales_are_frozen(name: str) -> None:
    fixed = {key for key, p in create_model(name, width=0.125).named_parameters() if not p.requires_grad}
    assert {key.split(".")[0] for key in fixed} <= {"upscore", "score_skips"}
    assert all(".weight" in key for key in fixed)
    learned = create_model(name, width=0.125, upsampling="learned")
    *intermediate, last = learned.upscore
    assert all(deconv.weight.requires_grad for deconv in intermediate)
    assert not last.weight.requires_grad  # "final layer deconvolutional filters are fixed", section 4.3


def test_the_padding_leaves_room_for_every_crop() -> None:
    """500 pixels: 698 behind conv1, 16 behind pool5 and (fc6 unpadded) 16 - 6 + ... at stride 32, cropped from 544."""
    with torch.device("meta"):
        model = create_model("fcn_32s.vgg16", width=0.125).eval()
        maps = model.backbone(torch.empty(1, 3, 698, 698))
    assert [m.shape[-1] for m in maps] == [349, 175, 88, 44, 16]
    assert model.upscore[-1](maps[-1].new_empty(1, 21, 16, 16)).shape[-1] == 544


@torch.no_grad()
def test_skips_are_aligned_with_the_upsampled_scores() -> None:
    """A change of one pixel reaches the finest scores around that pixel, from every skip, and the logits there."""
    model = scored("fcn_8s.vgg16")
    for stage in model.score_skips:
        stage[-1].weight.abs_()
    image = torch.zeros(1, 3, 160, 160)
    spot = image.clone()
    spot[..., 80, 80] = 100
    moved = (model(spot) - model(image)).abs().sum(1)[0]
    rows, columns = torch.meshgrid(torch.arange(160.0), torch.arange(160.0), indexing="ij")
    center = [(moved * axis).sum() / moved.sum() for axis in (rows, columns)]
    assert all(abs(c - 80) < 8 for c in center)


@torch.no_grad()
def test_at_once_scales_the_skipped_features() -> None:
    plain, scaled = scored("fcn_8s.vgg16"), scored("fcn_8s_at_once.vgg16")
    state = plain.state_dict()
    for index, factor in enumerate((0.01, 0.0001)):
        weight = state.pop(f"score_skips.{index}.0.weight")
        state[f"score_skips.{index}.1.weight"] = weight / factor
        state[f"score_skips.{index}.1.bias"] = state.pop(f"score_skips.{index}.0.bias")
        state[f"score_skips.{index}.0.weight"] = torch.full((weight.shape[1],), factor)
    scaled.load_state_dict(state)
    image = torch.randn(1, 3, 50, 70)
    torch.testing.assert_close(scaled(image), plain(image), rtol=1e-3, atol=1e-4)


@torch.no_grad()
def test_resize_upsampling_has_no_padding_and_can_be_dilated() -> None:
    model = scored("fcn_8s.vgg16", upsampling="resize")
    image = torch.randn(1, 3, 65, 97)
    assert not list(model.upscore)
    assert model.scores(image).shape == (1, 4, 9, 13)
    assert model.possible_output_strides() == [1, 2, 4, 8, 16, 32]
    coarse = model(image)
    assert model.set_output_stride(8)(image).shape == coarse.shape
    assert not torch.equal(model(image), coarse)
    assert torch.equal(model.set_output_stride(32)(image), coarse)


def test_released_fcn_runs_at_stride_32_only() -> None:
    with pytest.raises(AtrousError, match=r"output_stride 16: this network runs at 32\.$"):
        create_model("fcn_8s.vgg16", width=0.125).set_output_stride(16)


def test_skips_on_another_backbone_are_its_stages_at_strides_16_and_8() -> None:
    model = create_model("fcn_8s", backbone="mobilenet_v2", num_classes=4, width=0.25).eval()
    image = torch.randn(1, 3, 65, 97)
    maps = model.backbone(image)
    for conv in (model.score, *(skip[-1] for skip in model.score_skips)):
        nn.init.normal_(conv.weight)
    with torch.no_grad():
        at_16 = resize(model.score(maps[-1]), (5, 7), align_corners=False) + model.score_skips[0](maps[-2])
        expected = resize(at_16, (9, 13), align_corners=False) + model.score_skips[1](maps[-3])
        torch.testing.assert_close(model.scores(image), expected)
    with pytest.raises(AtrousError, match=r"upsampling 'fixed': on backbones other than VGG-16 choose 'resize'\."):
        create_model("fcn_8s", backbone="mobilenet_v2", upsampling="fixed")


def test_invalid_arguments() -> None:
    with pytest.raises(AtrousError, match=r"^finest 4: the finest stride of FCN is 32, 16 or 8\.$"):
        create_model("fcn_8s.vgg16", width=0.125, finest=4)
    with pytest.raises(AtrousError, match=r"Did you mean 'fcn_8s\.vgg16'"):
        create_model("fcn8s.vgg16")


def test_the_auxiliary_head_on_resnet_has_half_the_loss_weight() -> None:
    model = create_model("fcn.resnet50", width=0.125, num_classes=3)
    assert model.output_stride == 8
    assert [weight for _, weight in model.training_outputs(torch.randn(1, 3, 33, 40))] == [1.0, 0.5]
    alone = create_model("fcn.resnet50", width=0.125, num_classes=3, auxiliary=False)
    assert len(alone.training_outputs(torch.randn(1, 3, 33, 40))) == 1
