"""DeepLab v3 in cascade, and the decoders of DeepLab v3+: the rows of their papers' tables."""

from __future__ import annotations

import pytest
import torch

from atrous import AtrousError, create_model
from atrous.backbones import create_backbone

CASCADE = "deeplab_v3_cascade.resnet50_beta"


def rates(stage: torch.nn.Module) -> list[int]:
    return [unit.conv2.dilation[0] for unit in stage]


def test_blocks_of_the_cascade_dilate_by_2_4_8_16() -> None:
    model = create_model(CASCADE, width=0.125, multi_grid=(1, 1, 1))
    assert [rates(stage) for stage in model.backbone.stages()[3:]] == [[2] * 3, [4] * 3, [8] * 3, [16] * 3]
    model = create_model(CASCADE, width=0.125, multi_grid=(1, 2, 1))
    assert [rates(stage) for stage in model.backbone.stages()[3:]] == [
        [2, 4, 2],
        [4, 8, 4],
        [8, 16, 8],
        [16, 32, 16],
    ]


@pytest.mark.parametrize("name", ["deeplab_v3_cascade.resnet50", CASCADE])
@pytest.mark.parametrize("stride", [8, 16, 32, 64, 128, 256])
@torch.no_grad()
def test_output_strides_of_table_1(name: str, stride: int) -> None:
    model = create_model(name, width=0.125, output_stride=stride).eval()
    assert model.scores(torch.randn(1, 3, 257, 257)).shape[2:] == (256 // stride + 1,) * 2
    assert model.backbone.strides == tuple(min(s, stride) for s in (4, 8, 16, 32, 64, 128, 256))


@pytest.mark.parametrize("name", ["resnet50", "resnet50_beta"])
@torch.no_grad()
def test_the_cascade_is_atrous_consistent(name: str) -> None:
    backbone = create_backbone(name, width=0.125, stages=6).eval()
    image = torch.randn(1, 3, 257, 129)
    strided = backbone(image)[-1]
    backbone.set_output_stride(16)
    assert (backbone(image)[-1][..., ::8, ::8] - strided).abs().max() <= 1e-4 * strided.std()


def test_xception_applies_multi_grid_to_the_exit_flow() -> None:
    model = create_model("deeplab_v3.xception41", width=0.125, multi_grid=(1, 2, 4))
    assert [conv[0][0].dilation[0] for conv in model.backbone.exit2] == [2, 4, 8]
    model.set_output_stride(8)
    assert [conv[0][0].dilation[0] for conv in model.backbone.exit2] == [4, 8, 16]
    plain = create_model("deeplab_v3.xception41", width=0.125)
    assert [conv[0][0].dilation[0] for conv in plain.backbone.exit2] == [2, 2, 2]


@pytest.mark.parametrize("name", ["xception41", "xception65", "xception71"])
def test_xceptions_low_level_map_has_256_channels_at_stride_4(name: str) -> None:
    with torch.device("meta"):
        backbone = create_backbone(name).eval()
    maps = backbone(torch.empty(1, 3, 513, 513, device="meta"))
    assert [tuple(m.shape[1:]) for m in maps] == [(256, 129, 129), (728, 65, 65), (1024, 33, 33), (2048, 17, 17)]


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
def test_the_tap_at_conv3_is_climbed_over() -> None:
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


def test_a_fourth_branch_at_rate_24() -> None:
    model = create_model("deeplab_v3.resnet50", width=0.125, atrous_rates=(6, 12, 18, 24))
    assert [branch[0].dilation[0] for branch in list(model.aspp.branches)[1:]] == [6, 12, 18, 24]


def test_bad_arguments() -> None:
    with pytest.raises(AtrousError, match="3 factors are needed"):
        create_model(CASCADE, width=0.125, multi_grid=(1, 2))
    with pytest.raises(AtrousError, match="stages 3"):
        create_model(CASCADE, width=0.125, stages=3)
    with pytest.raises(AtrousError, match="256"):
        create_model(CASCADE, width=0.125, output_stride=12)
    with pytest.raises(AtrousError, match="decoder_convs 0"):
        create_model("deeplab_v3_plus.resnet50", width=0.125, decoder_convs=0)
    with pytest.raises(AtrousError, match="decoder_kernel_size 5"):
        create_model("deeplab_v3_plus.resnet50", width=0.125, decoder_kernel_size=5)
    with pytest.raises(AtrousError, match=r"Did you mean 'deeplab_v3\.xception65'"):
        create_model("deeplab_v3.xeption65")
