"""Stage summaries of `explain`, and receptive fields against those the papers publish."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from atrous import create_model, list_models
from atrous.analysis.counts import multiply_adds
from atrous.analysis.explain import explain


def test_the_context_module_has_a_receptive_field_of_67() -> None:
    """Dilated convolutions (Yu, Koltun 2016) table 1: 3, 5, 9, 17, 33, 65, 67, as the basic module grows."""
    layers = nn.Sequential(*(nn.Conv2d(2, 2, 3, padding=d, dilation=d) for d in (1, 1, 2, 4, 8, 16, 1, 1)))
    layers[-1] = nn.Conv2d(2, 2, 1)
    fields = [stage.receptive_field[0] for stage in explain(layers, (99, 99), in_channels=2).layers]
    assert fields == [3, 5, 9, 17, 33, 65, 67, 67]
    summary = {stage.name: stage.receptive_field[0] for stage in explain("dilation8.vgg16", width=0.125).stages}
    assert (summary["context"] - summary["score"]) // 8 + 1 == 67


def test_fcn_has_a_receptive_field_of_404_pixels() -> None:
    """FCN (Long, Shelhamer, Darrell 2015) table 1."""
    summary = {stage.name: stage for stage in explain("fcn_32s.vgg16", width=0.125).stages}
    assert summary["backbone.classifier"].receptive_field == (404, 404)
    assert summary["backbone.classifier"].stride == 32


def test_large_fov_has_a_field_of_view_of_224_pixels() -> None:
    """DeepLab v1 table 1 counts the distance between the outermost taps of fc6 plus the 32 pixels of one tap."""
    layers = {layer.name: layer for layer in explain("deeplab_v1.vgg16", width=0.125).layers}
    before, fc6 = layers["backbone.pool5a"], layers["backbone.classifier.0"]
    assert fc6.receptive_field[0] - before.receptive_field[0] + 32 == 224
    assert fc6.dilations == (12,)


@pytest.mark.parametrize("stride", [16, 8])
@pytest.mark.parametrize(
    ("name", "options", "fields"),
    [
        ("deeplab_v1.vgg16", {"fov": "large"}, [224]),
        ("deeplab_v1.vgg16", {"fov": "7x7"}, [224]),
        ("deeplab_v1.vgg16", {"fov": "4x4"}, [224]),
        ("deeplab_v1.vgg16", {"fov": "small"}, [128]),
        ("deeplab_v1_msc.vgg16", {}, [224]),
        ("deeplab_v2.vgg16", {"atrous_rates": (12,)}, [224]),
        ("deeplab_v2.vgg16", {}, [128, 224, 320, 416]),
        ("deeplab_v2.resnet101", {}, [128, 224, 320, 416]),
        ("deeplab_v2_msc.vgg16", {"atrous_rates": (2, 4, 8, 12)}, [64, 96, 160, 224]),
    ],
)
def test_fields_of_view_of_v1_and_v2(name: str, options: dict, fields: list[int], stride: int) -> None:
    """DeepLab v1 table 2; rates scale with the output stride, so that fields of view stay."""
    if options.get("fov") == "small" and stride == 16:
        options = options | {"output_stride": 8}
    summary = explain(name, (97, 97), width=0.125, **{"output_stride": stride} | options)
    assert [size for layer in summary.layers for size in layer.fields_of_view] == fields
    assert [size for stage in summary.stages for size in stage.fields_of_view] == fields
    column = summary.columns.index("field of view")
    assert [row[column] for row in summary.rows() if row[column]] == [", ".join(map(str, fields))]
    assert "field of view" not in explain("fcn_32s.vgg16", (97, 97), width=0.125).columns


def test_receptive_fields_of_resnet50() -> None:
    summary = {s.name: (s.receptive_field[0], s.stride) for s in explain("refinenet.resnet50", (97, 97)).stages}
    assert summary["backbone.conv1"] == (7, 2)
    assert summary["backbone.maxpool"] == (11, 4)
    assert [summary[f"backbone.layer{n}"] for n in (1, 2, 3, 4)] == [(35, 4), (91, 8), (267, 16), (427, 32)]


@pytest.mark.parametrize("name", list_models())
def test_every_network_can_be_explained(name: str) -> None:
    summary = explain(name, (97, 129), width=0.125, num_classes=5)
    with torch.device("meta"):
        model = create_model(name, width=0.125, num_classes=5)
    assert summary.parameters == sum(p.numel() for p in model.parameters())
    assert summary.multiply_adds == multiply_adds(model, 97, 129)
    *_, output = summary.stages
    assert output.shape == (5, 97, 129)
    assert output.stride == 1
    assert len(summary.rows()) == len(summary.stages)
    assert {len(row) for row in summary.rows(layers=True)} == {len(summary.columns)}
    for index, stage in enumerate(summary.stages):
        assert stage.inputs
        assert all(source < index for source in stage.inputs)
        assert stage.receptive_field[0] is None or stage.receptive_field[0] >= 1
    used = {source for stage in summary.stages for source in stage.inputs}
    assert used == set(range(-1, len(summary.stages) - 1))  # every stage is used


def test_dilations_and_strides_follow_the_output_stride() -> None:
    for stride, dilations in ((32, (1, 2, 4)), (16, (1, 4, 8)), (8, (2, 8, 16))):
        summary = explain("deeplab_v3.resnet50", width=0.125, output_stride=stride)
        layer4 = next(stage for stage in summary.stages if stage.name == "backbone.layer4")
        assert (layer4.stride, layer4.dilations) == (stride, dilations)
        assert layer4.shape[1:] == (512 // stride + 1,) * 2


def test_explain_does_not_change_the_model() -> None:
    model = create_model("deeplab_v3.resnet50", width=0.125).train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    explain(model, (65, 65))
    assert model.training
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert np.isfinite(model(torch.randn(2, 3, 33, 33)).detach().numpy()).all()
