"""Dilated: sizes as released, the context module as the identity."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from atrous import AtrousError, create_model
from atrous.layers.pad import mirror_pad
from atrous.models.dilated import LARGE_MULTIPLES, ContextModule

BASIC = (1, 1, 2, 4, 8, 16, 1)


@pytest.mark.parametrize("size", [(66, 66), (128, 128), (66, 91), (60, 159)])
def test_the_front_end_removes_186_pixels_on_each_side(size: tuple[int, int]) -> None:
    """900 -> 66, 1396 -> 128, 900x1100 -> 66x91, 852x1640 -> 60x159."""
    with torch.device("meta"):
        model = create_model("dilated_frontend.vgg16", width=0.125).eval()
        shapes = []
        model.backbone.register_forward_hook(lambda _, inputs, maps: shapes.extend([inputs[0].shape, maps[-1].shape]))
        model.scores(torch.empty(1, 3, 8 * size[0], 8 * size[1]))
    padded, scores = shapes
    assert tuple(padded[2:]) == (8 * size[0] + 372, 8 * size[1] + 372)
    assert tuple(scores[2:]) == size


@pytest.mark.parametrize(
    ("multiples", "pad_once"), [((1,) * 7, False), (LARGE_MULTIPLES, True), (LARGE_MULTIPLES, False)]
)
@torch.no_grad()
def test_without_noise_the_context_module_is_the_identity(multiples: tuple[int, ...], pad_once: bool) -> None:
    module = ContextModule(5, BASIC, multiples, pad_once=pad_once)
    module.init_identity(noise=0.0)
    scores = torch.rand(2, 5, 20, 13)
    torch.testing.assert_close(module(scores), scores)
    module.init_identity()
    assert not torch.equal(module(scores), scores)
    torch.testing.assert_close(module(scores), scores, atol=0.5, rtol=0)


def test_the_receptive_field_of_the_context_module_is_67_scores() -> None:
    module = ContextModule(3, BASIC, (1,) * 7)
    scores = torch.rand(1, 3, 99, 99, requires_grad=True)
    module(scores)[..., 49, 49].sum().backward()
    rows = scores.grad.abs().sum((0, 1, 3)).nonzero().flatten()
    assert rows.tolist()[0] == 49 - 33
    assert rows.tolist()[-1] == 49 + 33


@pytest.mark.parametrize(
    ("name", "dilations"),
    [
        ("dilation7.vgg16", [1, 1, 2, 4, 8, 1]),
        ("dilation8.vgg16", [1, 1, 2, 4, 8, 16, 1]),
        ("dilation10.vgg16", [1, 1, 2, 4, 8, 16, 32, 64, 1]),
    ],
)
def test_context_modules_as_released(name: str, dilations: list[int]) -> None:
    model = create_model(name, width=0.125, num_classes=3)
    assert [conv.dilation[0] for conv in model.context.convs] == dilations
    fc6 = model.backbone.classifier[0]
    assert (fc6.kernel_size, fc6.dilation, fc6.padding) == ((7, 7), (4, 4), (0, 0))
    convs = [layer for layer in model.backbone.features if isinstance(layer, nn.Conv2d)]
    assert [conv.dilation[0] for conv in convs] == [1] * 10 + [2] * 3


@pytest.mark.parametrize("name", ["dilated_frontend.vgg16", "dilation8.vgg16"])
@torch.no_grad()
def test_training_crops_contain_the_margin(name: str) -> None:
    """As released: a crop of 500 pixels has 16 x 16 labels, where the scores of its inner 128 pixels are."""
    model = create_model(name, width=0.0625, num_classes=2, pad_in_training=False).eval()
    crop = torch.randn(1, 3, 500, 500)
    ((scores, weight),) = model.training_outputs(crop)
    assert (*scores.shape, weight) == (1, 2, 16, 16, 1.0)
    inner = torch.randn(1, 3, 128, 128)
    ((scores, _),) = model.training_outputs(mirror_pad(inner, (186, 186), (186, 186)))
    torch.testing.assert_close(scores, model.scores(inner))
    torch.testing.assert_close(model(inner)[..., ::8, ::8], scores)
    with pytest.raises(AtrousError, match="65 x 49 pixels has none inside its margin of 186"):
        model.training_outputs(torch.zeros(1, 3, 49, 65))


def test_scores_are_anchored_at_every_eighth_pixel() -> None:
    model = create_model("dilated_frontend.vgg16", width=0.125, num_classes=2)
    scores = torch.randn(1, 2, 3, 4)
    logits = model._to_size_of(torch.empty(1, 3, 24, 31), scores)
    assert logits.shape == (1, 2, 24, 31)
    torch.testing.assert_close(logits[..., ::8, ::8], scores)
    torch.testing.assert_close(logits[..., 4, 0], (scores[..., 0, 0] + scores[..., 1, 0]) / 2)
    torch.testing.assert_close(logits[..., 20, 0], scores[..., 2, 0])


@torch.no_grad()
def test_denser_scores_contain_the_sparser_ones_with_context() -> None:
    model = create_model("dilation8.vgg16", width=0.0625, num_classes=2, context="basic").eval()
    nn.init.normal_(model.score.weight)
    image = torch.randn(1, 3, 24, 32)
    coarse = model.scores(image)
    dense = model.set_output_stride(4).scores(image)
    torch.testing.assert_close(dense[..., ::2, ::2], coarse, rtol=1e-3, atol=1e-4)


def test_invalid_arguments() -> None:
    with pytest.raises(AtrousError, match="output_stride 16: this network runs at 1, 2, 4, 8"):
        create_model("dilation8.vgg16", width=0.125, output_stride=16)
    with pytest.raises(AtrousError, match=r"output_stride 4: this network runs at 8\.$"):
        create_model("dilation10.vgg16", width=0.125, output_stride=4)
    with pytest.raises(AtrousError, match=r"dilations \(1, 2\): the large context module needs 7"):
        create_model("dilation8.vgg16", width=0.125, dilations=(1, 2))
