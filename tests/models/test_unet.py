"""U-Net: the sizes of figure 1, mirrored borders, crops."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from atrous import AtrousError, create_model
from atrous.layers.pad import mirror_pad


def test_sizes_of_figure_1() -> None:
    model = create_model("unet.valid", width=0.0625, in_channels=1, num_classes=2)
    sizes = []
    for level in [*model.contract, *model.expand]:
        level.register_forward_hook(lambda _, inputs, out: sizes.append((inputs[0].shape[-1], out.shape[-1])))
    assert model.scores(torch.randn(1, 1, 388, 388)).shape == (1, 2, 388, 388)
    assert sizes[:5] == [(572, 568), (284, 280), (140, 136), (68, 64), (32, 28)]
    assert sizes[5:] == [(56, 52), (104, 100), (200, 196), (392, 388)]
    assert model.input_size(388) == 572
    assert model.margin() == 92


@pytest.mark.parametrize("size", [1, 4, 5, 20, 388])
def test_inputs_are_184_pixels_larger_than_their_scores(size: int) -> None:
    model = create_model("unet.valid", width=0.0625)
    assert model.input_size(size) >= size + 184
    assert (model.input_size(size) - 124) % 16 == 0
    assert model.scores(torch.randn(1, 3, size, size)).shape[-1] == model.input_size(size) - 184


@torch.no_grad()
def test_overlapping_tiles_agree_inside() -> None:
    """The scores of a valid network depend on the pixel's surroundings only: tiles join without a seam."""
    model = create_model("unet.valid", width=0.0625, num_classes=3, pad_in_training=False).eval()
    image = torch.randn(1, 3, 244, 244)
    whole = model(image)
    tile = mirror_pad(image, (92, 92), (92, 92))[..., 16 : 16 + 316, 32 : 32 + 316]
    ((part, weight),) = model.training_outputs(tile)
    assert weight == 1.0
    torch.testing.assert_close(part, whole[..., 16 : 16 + 132, 32 : 32 + 132], rtol=1e-4, atol=1e-5)
    inner = tile[..., 92:-92, 92:-92]
    model.pad_in_training = True
    ((mirrored, _),) = model.training_outputs(inner)
    assert mirrored.shape == part.shape
    assert not torch.allclose(mirrored, part, rtol=1e-2)  # the surroundings of the tile are not its reflection


@pytest.mark.parametrize(
    ("name", "good", "bad", "message"),
    [
        ("unet.valid", (188, 572), (184, 388), r"388 x 184 pixels .* margin 92 and sides of 188 \+ 16 k"),
        ("unet.padded", (16, 48), (16, 40), r"40 x 16 pixels .* margin 0 and sides of 16 \+ 16 k"),
    ],
)
def test_sizes_of_training_tiles(name: str, good: tuple[int, int], bad: tuple[int, int], message: str) -> None:
    model = create_model(name, width=0.0625, num_classes=2, pad_in_training=False)
    removed = 2 * model.margin()
    ((scores, _),) = model.training_outputs(torch.randn(1, 3, *good))
    assert scores.shape == (1, 2, good[0] - removed, good[1] - removed)
    with pytest.raises(AtrousError, match=message):
        model.training_outputs(torch.randn(1, 3, *bad))


def test_initialization_of_section_3() -> None:
    """He: sqrt(2 / N) for N incoming nodes, of which an up-convolution has one per channel, and zero biases."""
    model = create_model("unet.valid", width=0.5)
    for layer in [*model.contract.modules(), *model.up, *model.expand.modules()]:
        if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d)):
            taps = 1 if isinstance(layer, nn.ConvTranspose2d) else 9
            std = (2 / (layer.in_channels * taps)) ** 0.5
            assert layer.weight.std().item() == pytest.approx(std, rel=0.1)
            assert not layer.bias.any()


@pytest.mark.parametrize("name", ["unet.valid", "unet.padded"])
def test_strides_cannot_become_dilations(name: str) -> None:
    with pytest.raises(AtrousError, match=r"output_stride 8: this network runs at 16\.$"):
        create_model(name, width=0.0625).set_output_stride(8)


def test_levels_are_an_argument() -> None:
    model = create_model("unet.padded", channels=(8, 16, 32), num_classes=2)
    assert model.output_stride == 4
    assert model(torch.randn(1, 3, 13, 9)).shape == (1, 2, 13, 9)
    small = create_model("unet.valid", channels=(8, 16), num_classes=2)
    assert small(torch.randn(1, 3, 13, 9)).shape == (1, 2, 13, 9)
    with pytest.raises(AtrousError, match=r"^channels \(64,\): U-Net needs 2 levels or more\.$"):
        create_model("unet.padded", channels=(64,))
    with pytest.raises(AtrousError, match="Did you mean 'batch_norm'"):
        create_model("unet.padded", batchnorm=True)


@pytest.mark.parametrize("backbone", ["resnet50", "mobilenet_v2"])
def test_a_classifier_as_contracting_path(backbone: str) -> None:
    """Any size, batch 1 in training, and every output stride of the backbone."""
    model = create_model("unet", backbone=backbone, num_classes=5, width=0.125)
    logits = model(torch.randn(1, 3, 70, 45))
    assert logits.shape == (1, 5, 70, 45)
    logits.square().mean().backward()
    assert not [key for key, parameter in model.named_parameters() if parameter.grad is None]
    model.eval()
    image = torch.randn(1, 3, 33, 65)
    with torch.no_grad():
        before = model(image)
        for stride in (16, 8):
            model.set_output_stride(stride)
            assert model(image).shape == (1, 5, 33, 65)
        model.set_output_stride(32)
        assert torch.equal(model(image), before)


def test_the_path_has_one_number_of_channels_per_map_but_the_coarsest() -> None:
    model = create_model("unet", backbone="resnet50", channels=(40, 30, 20), width=0.125)
    assert [convs[0][0].out_channels for convs in model.expand] == [40, 30, 20]
    with pytest.raises(AtrousError, match=r"channels \(40, 30\): this backbone needs 3 numbers"):
        create_model("unet", backbone="resnet50", channels=(40, 30), width=0.125)
