"""DeepLab v2: the grid of the scores (shared with v1), ASPP, learning rates, scales."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from atrous import AtrousError, create_model
from atrous.layers.resize import resize
from atrous.training.recipe import read_recipe

V1_AND_V2 = ["deeplab_v1.vgg16", "deeplab_v2.vgg16", "deeplab_v2.resnet101"]


def convs(module: nn.Module) -> list[nn.Conv2d]:
    return [layer for layer in module.modules() if isinstance(layer, nn.Conv2d)]


@pytest.mark.parametrize("name", V1_AND_V2)
@pytest.mark.parametrize(("size", "scores"), [(321, 41), (513, 65), (500, 64), (320, 41), (1, 1)])
def test_scores_lie_at_every_eighth_pixel(name: str, size: int, scores: int) -> None:
    with torch.device("meta"):
        model = create_model(name, width=0.125, num_classes=4).eval()
        image = torch.empty(1, 3, size, 33)
    assert model.scores(image).shape == (1, 4, scores, 5)
    assert model(image).shape == (1, 4, size, 33)


def test_logits_are_the_scores_at_every_eighth_pixel() -> None:
    model = create_model("deeplab_v2.vgg16", width=0.125).eval()
    image = torch.randn(1, 3, 50, 70)
    with torch.no_grad():
        scores, logits = model.scores(image), model(image)
    torch.testing.assert_close(logits[..., ::8, ::8], scores[..., :7, :9])


@pytest.mark.parametrize("rates", [(6, 12, 18, 24), (2, 4, 8, 12), (12,)])
@torch.no_grad()
def test_the_pyramid_is_the_sum_of_its_branches(rates: tuple[int, ...]) -> None:
    for name in V1_AND_V2[1:]:
        model = create_model(name, width=0.125, atrous_rates=rates).eval()
        assert [convs(branch)[0].dilation[0] for branch in model.aspp.branches] == list(rates)
        x = torch.randn(1, model.backbone.channels[-1], 9, 7)
        torch.testing.assert_close(model.aspp(x), sum(branch(x) for branch in model.aspp.branches))


def test_rates_scale_with_the_output_stride_if_they_stay_integers() -> None:
    model = create_model("deeplab_v2.resnet101", width=0.125)
    assert model.possible_output_strides() == [2, 4, 8, 16]
    model.set_output_stride(16)
    assert [branch.dilation[0] for branch in model.aspp.branches] == [3, 6, 9, 12]
    with pytest.raises(AtrousError, match="output_stride 32: this network runs at 2, 4, 8, 16"):
        model.set_output_stride(32)
    assert model.output_stride == 16


def test_the_caffe_resnet_dilates_every_3x3_of_a_stage_exactly() -> None:
    """The stride is on a 1x1 convolution before all of them, so atrous consistency requires the whole stage dilated."""
    model = create_model("deeplab_v2.resnet101", width=0.125)
    for stage, rate in ((model.backbone.layer3, 2), (model.backbone.layer4, 4)):
        assert {unit.conv2.dilation[0] for unit in stage} == {rate}
        assert stage[0].conv1.stride == (1, 1)
    other = create_model("deeplab_v2.resnet101", width=0.125, backbone_options={"whole_stage": True})
    assert [c.dilation for c in convs(other)] == [c.dilation for c in convs(model)]


def test_the_recipe_runs_the_layout_of_its_weights_at_the_released_rates() -> None:
    """Strides on 3x3 convolutions, as torchvision's ImageNet weights were trained, and every 3x3 of a stage dilated."""
    for stage in read_recipe("deeplab_v2_resnet101_voc").stages:
        with torch.device("meta"):
            backbone = create_model(stage.model.id, **stage.model.options).backbone
        assert "imagenet" in backbone.pretrained
        assert (backbone.layer2[0].conv1.stride, backbone.layer2[0].conv2.stride) == ((1, 1), (2, 2))
        for units, rate in ((backbone.layer3, 2), (backbone.layer4, 4)):
            assert {unit.conv2.dilation[0] for unit in units} == {rate}


@pytest.mark.parametrize(
    ("name", "parts"), [("deeplab_v1.vgg16", 1), ("deeplab_v2.vgg16", 4), ("deeplab_v2.resnet101", 4)]
)
def test_only_the_classifiers_have_a_higher_learning_rate(name: str, parts: int) -> None:
    model = create_model(name, width=0.125, num_classes=7)
    groups = model.parameter_groups(1.0, lr_mult={"head": 10, "bias": 2})
    fast = {group["lr"]: group["params"] for group in groups if "head" in group["name"]}
    assert set(fast) == {10, 20}
    assert [len(parameters) for parameters in fast.values()] == [parts, parts]
    assert all(parameter.shape[0] == 7 for parameters in fast.values() for parameter in parameters)


@torch.no_grad()
def test_three_scales_share_weights_and_the_maximum_score_is_taken() -> None:
    model = create_model("deeplab_v2_msc.resnet101", width=0.125, num_classes=3).eval()
    single = create_model("deeplab_v2.resnet101", width=0.125, num_classes=3).eval()
    single.load_state_dict(model.state_dict())
    image = torch.randn(1, 3, 65, 97)
    maps = [single.scores(image)]
    for size in ((49, 73), (33, 49)):
        scores = single.scores(resize(image, size, align_corners=True))
        assert scores.shape[2:] == ((size[0] - 1) // 8 + 1, (size[1] - 1) // 8 + 1)
        maps.append(resize(scores, (9, 13), align_corners=True))
    fused = torch.stack(maps).amax(0)
    torch.testing.assert_close(model.scores(image), fused)
    (first, _), *others = outputs = model.training_outputs(image)
    assert [weight for _, weight in outputs] == [1.0] * 4
    torch.testing.assert_close(first, model(image))
    torch.testing.assert_close(others[0][0], single(image))


@torch.no_grad()
def test_branches_load_the_fully_connected_layers_of_vgg16() -> None:
    width = 0.03125
    source = create_model("fcn_32s.vgg16", width=width).backbone.state_dict()
    matrices = {
        key: value.flatten(1) if "classifier" in key and value.ndim == 4 else value for key, value in source.items()
    }
    matrices["classifier.6.weight"] = torch.randn(1000, 128)
    model = create_model("deeplab_v2.vgg16", width=width)
    model.load_backbone(matrices)
    fc6 = source["classifier.0.weight"]
    for branch in model.aspp.branches:
        assert torch.equal(branch[0].weight, fc6[::4, :, ::3, ::3][:32])
    v1 = create_model("deeplab_v1.vgg16", width=width)
    v1.backbone.load_state_dict(matrices)
    assert torch.equal(v1.backbone.classifier[0].weight, model.aspp.branches[0][0].weight)
    assert torch.equal(v1.backbone.features[0].weight, source["features.0.weight"])


def test_on_another_backbone() -> None:
    aspp = create_model("deeplab_v2", backbone="mobilenet_v2", num_classes=4, width=0.25)
    large_fov = create_model("deeplab_v1", backbone="mobilenet_v2", num_classes=4, width=0.25)
    assert [conv.dilation[0] for conv in aspp.field_of_view_convs()] == [6, 12, 18, 24]
    assert large_fov.fields_of_view() == {"aspp.branches.0.0": 224}  # as on VGG-16
    assert [tuple(conv.shape) for name, conv in large_fov.aspp.named_parameters() if "weight" in name] == [
        (256, 80, 3, 3),
        (256, 256, 1, 1),
        (4, 256, 1, 1),
    ]
    large_fov.set_output_stride(16)
    assert large_fov.fields_of_view() == {"aspp.branches.0.0": 224}


def test_invalid_arguments() -> None:
    with pytest.raises(AtrousError, match=r"atrous_rates \(\): give at least one rate"):
        create_model("deeplab_v2.vgg16", width=0.125, atrous_rates=())
    with pytest.raises(AtrousError, match=r"atrous_rates \(6, 0\)"):
        create_model("deeplab_v2.resnet101", width=0.125, atrous_rates=(6, 0))
