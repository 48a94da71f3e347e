"""DeepLab v3+: the decoder, as in the tables of the paper."""

from __future__ import annotations

import pytest
import torch

from atrous import AtrousError, create_model


def test_size_of_the_scores_of_513_pixels() -> None:
    with torch.device("meta"):
        model = create_model("deeplab_v3_plus.resnet50").eval()
    assert model.scores(torch.empty(1, 3, 513, 513, device="meta")).shape == (1, 21, 129, 129)


def test_the_decoder_joins_48_channels_of_stride_4_with_256() -> None:
    with torch.device("meta"):
        model = create_model("deeplab_v3_plus.resnet101")
    assert model.decoder.reduce[0].weight.shape == (48, 256, 1, 1)
    assert [tuple(conv[0].weight.shape) for conv in model.decoder.refine] == [(256, 304, 3, 3), (256, 256, 3, 3)]


@pytest.mark.parametrize("stage", [0, 1])
@torch.no_grad()
def test_beta_resnets_take_the_low_level_map_before_the_sum(stage: int) -> None:
    """As TensorFlow's `block1/unit_2/conv3` (and `block2/unit_3/conv3`): batch normalized, without sum and ReLU."""
    backbone = create_model("deeplab_v3_plus.resnet50_beta", width=0.125).eval().backbone
    unit = backbone.stages()[stage][-2]
    captured = []
    unit.bn3.register_forward_hook(lambda module, args, output: captured.append(output.clone()))
    low = backbone(torch.randn(1, 3, 65, 97))[stage]
    assert torch.equal(low, captured[0])
    assert (low < 0).any()


@torch.no_grad()
def test_maps_are_outputs_of_units_on_other_resnets() -> None:
    options = {"backbone_options": {"maps_from": "output"}}
    for name, chosen in (("resnet50", {}), ("resnet50_beta", options)):
        maps = create_model(f"deeplab_v3_plus.{name}", width=0.125, **chosen).eval().backbone(torch.randn(1, 3, 65, 97))
        assert all((each >= 0).all() for each in maps)


@pytest.mark.parametrize("channels", [8, 16, 32, 48, 64])
def test_low_level_channels_of_table_1(channels: int) -> None:
    with torch.device("meta"):
        decoder = create_model("deeplab_v3_plus.resnet101", low_level_channels=channels).decoder
    assert decoder.reduce[0].weight.shape == (channels, 256, 1, 1)
    assert decoder.refine[0][0].weight.shape == (256, 256 + channels, 3, 3)


@pytest.mark.parametrize(
    ("options", "kernels"),
    [
        ({"decoder_convs": 1}, [(256, 304, 3, 3)]),
        ({"decoder_convs": 3}, [(256, 304, 3, 3), (256, 256, 3, 3), (256, 256, 3, 3)]),
        ({"decoder_convs": 1, "decoder_channels": 128}, [(128, 304, 3, 3)]),
        ({"decoder_convs": 1, "decoder_kernel_size": 1}, [(256, 304, 1, 1)]),
    ],
)
def test_decoders_of_table_2(options: dict, kernels: list[tuple[int, ...]]) -> None:
    with torch.device("meta"):
        model = create_model("deeplab_v3_plus.resnet101", **options).eval()
    assert [tuple(conv[0].weight.shape) for conv in model.decoder.refine] == kernels
    assert model(torch.empty(1, 3, 65, 65, device="meta")).shape == (1, 21, 65, 65)


@torch.no_grad()
def test_the_conv3_tap_adds_a_decoder_at_stride_8() -> None:
    model = create_model("deeplab_v3_plus.resnet50", width=0.125, conv3_tap=True).eval()
    assert model.conv3.reduce[0].in_channels == model.backbone.channels[1]
    heights = []
    for decoder in (model.conv3, model.decoder):
        decoder.register_forward_hook(lambda module, args, output: heights.append(output.shape[2]))
    assert model(torch.randn(1, 3, 65, 65)).shape == (1, 21, 65, 65)
    assert heights == [9, 17]


def test_separable_convolutions_are_the_default_where_the_backbone_has_them() -> None:
    for name, separable in (("xception65", True), ("efficientnet_lite0", True), ("resnet101", False)):
        with torch.device("meta"):
            model = create_model(f"deeplab_v3_plus.{name}")
        first = model.decoder.refine[0][0]
        assert len(first) == 3 and first[0].groups > 1 if separable else first.groups == 1, name


def test_invalid_arguments() -> None:
    with pytest.raises(AtrousError, match="decoder_convs 0"):
        create_model("deeplab_v3_plus.resnet50", width=0.125, decoder_convs=0)
    with pytest.raises(AtrousError, match="decoder_kernel_size 5"):
        create_model("deeplab_v3_plus.resnet50", width=0.125, decoder_kernel_size=5)
