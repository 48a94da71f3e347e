"""RefineNet: the ablations, residual units, chained pooling and scales."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from atrous import AtrousError, create_model
from atrous.analysis.counts import count_parameters
from atrous.models.refinenet import ChainedResidualPooling, ResidualConvUnit

NAME = "refinenet.resnet50"


def tiny(**options) -> nn.Module:
    return create_model(NAME, width=0.125, num_classes=3, **options).eval()


def test_one_block_per_stage_from_coarse_to_fine() -> None:
    with torch.device("meta"):
        model = create_model(NAME).eval()
    assert [block.adapt[0][0].weight.shape[:2] for block in model.blocks] == [
        (512, 2048),
        (256, 1024),
        (256, 512),
        (256, 256),
    ]
    assert model.blocks[0].fuse is None
    assert [len(block.refine) for block in model.blocks] == [3] * 4
    assert model.scores(torch.empty(1, 3, 400, 400, device="meta")).shape == (1, 21, 100, 100)


@pytest.mark.parametrize(("cascades", "inputs"), [(4, [1, 2, 2, 2]), (2, [2, 3]), (1, [4])])
def test_cascades_of_the_ablation(cascades: int, inputs: list[int]) -> None:
    model = tiny(cascades=cascades)
    assert [1 if block.fuse is None else len(block.fuse.convs) for block in model.blocks] == inputs
    assert model(torch.randn(1, 3, 50, 37)).shape == (1, 3, 50, 37)


def test_two_scales_have_a_resnet_each_and_share_the_blocks() -> None:
    model = tiny(scales=(1.2, 0.6)).train()
    image = torch.randn(2, 3, 50, 37)
    assert model.scores(image).shape[2:] == (15, 11)  # a quarter of 60 x 44
    logits = model(image)
    assert logits.shape == (2, 3, 50, 37)
    logits.square().mean().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    parameters = count_parameters(model.backbone)
    assert count_parameters(model.further) == parameters
    assert not {id(p) for p in model.further.parameters()} & {id(p) for part in model.head() for p in part.parameters()}
    model.set_output_stride(8)
    assert {backbone.output_stride for backbone in (model.backbone, *model.further)} == {8}
    assert model.backbone.layer4[1].conv2.dilation == model.further[0].layer4[1].conv2.dilation == (4, 4)


def test_the_matlab_release_enlarges_the_image() -> None:
    model = tiny(scales=(1.2,))
    assert model.scores(torch.randn(1, 3, 500, 375)).shape[2:] == (150, 113)  # a quarter of 600 x 450
    assert model(torch.randn(1, 3, 1, 1)).shape == (1, 3, 1, 1)


def test_scaled_images_export_with_any_size() -> None:
    model = tiny(scales=(1.2,))
    dynamic = torch.export.Dim.DYNAMIC
    exported = torch.export.export(
        model, (torch.randn(1, 3, 65, 97),), dynamic_shapes=({2: dynamic, 3: dynamic},)
    ).module()
    image = torch.randn(1, 3, 130, 71)
    with torch.no_grad():
        torch.testing.assert_close(exported(image), model(image), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_chained_pooling_adds_every_link() -> None:
    pooling = ChainedResidualPooling(2, stages=2)
    for conv in pooling.convs:  # identity convolutions
        nn.init.dirac_(conv.weight)
    x = torch.zeros(1, 2, 9, 9)
    x[0, 0, 4, 4], x[0, 1, 4, 4] = 1.0, -1.0
    y = pooling(x)
    assert y[0, 0, 4].tolist() == [1, 1, 2, 2, 3, 2, 2, 1, 1]  # itself, its 5x5 maximum, and the maximum of that
    assert (y[0, 1] == 0).all()  # a ReLU comes first
    pooling.order = "conv-pool"
    assert torch.equal(pooling(x), y)  # identity convolutions: the order makes no difference


@torch.no_grad()
def test_the_orders_of_pooling_and_convolution_differ() -> None:
    first = ChainedResidualPooling(4, stages=2)
    second = ChainedResidualPooling(4, stages=2, order="conv-pool")
    second.load_state_dict(first.state_dict())
    x = torch.randn(1, 4, 9, 9)
    assert not torch.allclose(first(x), second(x))


@torch.no_grad()
def test_a_residual_unit_does_not_modify_its_input() -> None:
    unit = ResidualConvUnit(4)
    nn.init.zeros_(unit.conv2.weight)
    x = torch.randn(1, 4, 7, 7)
    before = x.clone()
    assert torch.equal(unit(x), before)
    assert torch.equal(x, before)  # no ReLU in place
    assert unit.conv1.bias is not None
    assert unit.conv2.bias is None


def test_dropout_is_on_the_two_deepest_maps_and_before_the_classifier() -> None:
    model = tiny()
    channels = []
    model.dropout.register_forward_hook(lambda module, args, output: channels.append(args[0].shape[1]))
    model(torch.randn(1, 3, 64, 64))
    assert channels == [*model.backbone.channels[2:], model.classifier.in_channels]
    assert model.dropout.p == 0.5


def test_invalid_arguments() -> None:
    with pytest.raises(AtrousError, match="cascades 3"):
        tiny(cascades=3)
    with pytest.raises(AtrousError, match="positive scale"):
        tiny(scales=(0,))
