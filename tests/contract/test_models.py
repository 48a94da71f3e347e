"""Contract of every registered network, at a small width."""

from __future__ import annotations

import copy
import functools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch.nn import functional

from atrous import AtrousError, create_model, list_models
from atrous.models import MODELS, SegmentationModel
from tests.contract.trained import imitate_training

WIDTH = 0.125
EVERY_MODEL = pytest.mark.parametrize("name", list_models())
DEEPER = ("resnet101", "resnet101_beta", "resnet152", "xception65", "xception71")
"""Backbones with more of the blocks of `resnet50`, `resnet50_beta` and `xception41`, which take longest to export."""


def is_deeper(name: str) -> bool:
    """Whether a network differs from another one only by the number of blocks of its backbone."""
    architecture, _, backbone = name.partition(".")
    shallower = {"resnet101_beta": "resnet50_beta"}.get(backbone, "resnet50" if "resnet" in backbone else "xception41")
    return backbone in DEEPER and f"{architecture}.{shallower}" in list_models()


@functools.cache
def _built(name: str) -> SegmentationModel:
    torch.manual_seed(0)
    model = create_model(name, width=WIDTH, num_classes=5)
    imitate_training(model)
    return model.eval()


def tiny(name: str) -> SegmentationModel:
    return copy.deepcopy(_built(name))


@EVERY_MODEL
@settings(max_examples=5)
@given(height=st.integers(1, 80), width=st.integers(1, 80), batch=st.integers(1, 2), training=st.booleans())
def test_logits_have_the_size_of_the_image(name: str, height: int, width: int, batch: int, training: bool) -> None:
    model = tiny(name).train(training)
    logits = model(torch.randn(batch, 3, height, width))
    assert logits.shape == (batch, 5, height, width)
    assert logits.dtype == torch.float32
    assert logits.isfinite().all()


@EVERY_MODEL
def test_trains_at_batch_1_and_every_parameter_gets_a_gradient(name: str) -> None:
    model = tiny(name).train()
    outputs = model.training_outputs(torch.randn(1, 3, 70, 45))
    loss = sum((logits**2).mean() * weight for logits, weight in outputs)
    loss.backward()
    missing = [key for key, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert not missing
    moved = [key for key, p in model.named_parameters() if not p.requires_grad and p.grad is not None]
    assert not moved  # fixed by the paper, such as bilinear transposed convolutions
    for logits, weight in outputs:
        assert logits.shape == (1, 5, 70, 45)
        assert weight > 0


@EVERY_MODEL
@torch.no_grad()
def test_training_begins_near_the_loss_of_guessing(name: str) -> None:
    """Not at a loss of hundreds, after which the first steps destroy what the backbone knows."""
    torch.manual_seed(0)
    model = create_model(name, width=WIDTH, num_classes=5).train()
    labels = torch.randint(0, 5, (2, 70, 45))
    for logits, _ in model.training_outputs(torch.randn(2, 3, 70, 45)):
        assert float(functional.cross_entropy(logits, labels)) < math.log(5) + 1.5


@EVERY_MODEL
def test_the_first_training_output_is_the_output(name: str) -> None:
    model = tiny(name)
    image = torch.randn(1, 3, 50, 61)
    with torch.no_grad():
        torch.testing.assert_close(model.training_outputs(image)[0][0], model(image))


@EVERY_MODEL
def test_output_stride_can_be_changed_and_undone(name: str) -> None:
    model = tiny(name)
    image = torch.randn(1, 3, 97, 65)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    strides = [stride for stride in (32, 16, 8) if stride in model.possible_output_strides()]
    assert model.output_stride in strides
    outputs = {}
    with torch.no_grad():
        for stride in (*strides, strides[0], strides[-1]):
            assert model.set_output_stride(stride) is model
            assert model.output_stride == stride
            outputs.setdefault(stride, []).append(model(image))
    assert all(torch.equal(first, again) for first, *agains in outputs.values() for again in agains)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    if len(strides) > 1:
        assert not torch.equal(outputs[strides[0]][0], outputs[strides[-1]][0])


@EVERY_MODEL
def test_an_impossible_output_stride_is_named(name: str) -> None:
    model = tiny(name)
    with pytest.raises(AtrousError, match="output_stride 12: this network runs at"):
        model.set_output_stride(12)
    if "output_stride" in MODELS.entry(name).arguments():
        with pytest.raises(AtrousError, match="output_stride 12: this network runs at"):
            create_model(name, width=WIDTH, output_stride=12)


@EVERY_MODEL
@torch.no_grad()
def test_a_refused_output_stride_changes_nothing(name: str) -> None:
    model = tiny(name)
    image = torch.randn(1, 3, 65, 49)
    before = model(image), model.output_stride, [backbone.strides for backbone in model.backbones()]
    for stride in (0, 3, 12, 1024):
        with pytest.raises(AtrousError, match=f"output_stride {stride}: this network runs at"):
            model.set_output_stride(stride)
    assert model.output_stride == before[1]
    assert [backbone.strides for backbone in model.backbones()] == before[2]
    assert torch.equal(model(image), before[0])


@EVERY_MODEL
def test_saves_and_loads_exactly(name: str, tmp_path) -> None:
    model = tiny(name)
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    other = create_model(name, width=WIDTH, num_classes=5).eval()
    other.load_state_dict(load_file(tmp_path / "model.safetensors"))
    image = torch.randn(1, 3, 40, 33)
    with torch.no_grad():
        assert torch.equal(model(image), other(image))


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if is_deeper(name) else []) for name in list_models()]
)
def test_exports_with_dynamic_batch_height_and_width(name: str) -> None:
    model = tiny(name)
    dynamic = torch.export.Dim.DYNAMIC
    exported = torch.export.export(
        model, (torch.randn(2, 3, 65, 97),), dynamic_shapes=({0: dynamic, 2: dynamic, 3: dynamic},)
    ).module()
    for shape in ((2, 3, 65, 97), (1, 3, 130, 71), (3, 3, 64, 64)):
        image = torch.randn(shape)
        with torch.no_grad():
            torch.testing.assert_close(exported(image), model(image), rtol=1e-4, atol=1e-5)


@EVERY_MODEL
def test_other_numbers_of_classes_and_channels(name: str) -> None:
    model = create_model(name, width=WIDTH, num_classes=2, in_channels=4)
    assert model.num_classes == 2
    assert model(torch.randn(2, 4, 33, 47)).shape == (2, 2, 33, 47)


@EVERY_MODEL
def test_parameter_groups_hold_every_parameter_once(name: str) -> None:
    model = tiny(name)
    groups = model.parameter_groups(0.1, weight_decay=1e-4, lr_mult={"head": 10, "bias": 2}, decay_bias=False)
    held = [id(parameter) for group in groups for parameter in group["params"]]
    assert sorted(held) == sorted(id(parameter) for parameter in model.parameters() if parameter.requires_grad)
    assert {round(group["lr"], 9) for group in groups} <= {0.1, 0.2, 1.0, 2.0}
    torch.optim.SGD(groups, lr=0.1)


@pytest.mark.parametrize("option", ["width", "in_channels", "num_classes"])
def test_arguments_of_the_model_are_no_backbone_options(option: str) -> None:
    with pytest.raises(AtrousError, match=f"backbone_options: {option} is an argument of the model itself"):
        create_model("deeplab_v3.resnet50", backbone_options={option: 1})
    with pytest.raises(AtrousError, match="Did you mean 'whole_stage'"):
        create_model("deeplab_v3.resnet50", backbone_options={"whole_stages": True})


@pytest.mark.parametrize(
    ("name", "option", "value"),
    [
        ("deeplab_v1.vgg16", "average_pool", False),
        ("deeplab_v2.vgg16", "dilate_pools", True),
        ("deeplab_v2.resnet101", "stride_on", "3x3"),
        ("deeplab_v3.resnet50_beta", "stride_at", "first"),
        ("deeplab_v3_cascade.resnet50", "stages", 5),
        ("dilated_frontend.vgg16", "pool_kernels", (2, 2, 2, 2, 2)),
        ("pspnet.resnet50", "stem", "plain"),
        ("segnet.vgg16", "batch_norm", False),
    ],
)
def test_backbone_options_override_what_a_paper_presets(name: str, option: str, value: object) -> None:
    with torch.device("meta"):
        backbone = create_model(name, width=WIDTH, backbone_options={option: value}).backbone
    assert backbone.arguments[option] == value


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("deeplab_v1.vgg16", {}),
        ("deeplab_v1.vgg16", {"fov": "4x4"}),
        ("fcn_8s.vgg16", {}),
        ("fcn_8s.vgg16", {"upsampling": "resize"}),
        ("dilation8.vgg16", {}),
    ],
)
def test_options_of_fc6_and_fc7_override_one_by_one(name: str, arguments: dict) -> None:
    with torch.device("meta"):
        usual = create_model(name, width=WIDTH, **arguments).backbone.classifier[0]
        wide = create_model(name, width=WIDTH, backbone_options={"fc": {"channels": 2048}}, **arguments)
        bare = create_model(name, width=WIDTH, backbone_options={"fc": None}, **arguments)
    fc6 = wide.backbone.classifier[0]
    assert fc6.out_channels == 256
    for geometry in ("kernel_size", "dilation", "padding"):
        assert getattr(fc6, geometry) == getattr(usual, geometry)
    assert bare.backbone.classifier is None
