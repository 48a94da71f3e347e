"""DeepLab v3: ASPP and cascade, as in the tables of the paper."""

from __future__ import annotations

import pytest
import torch

from atrous import AtrousError, create_model
from atrous.backbones import create_backbone
from atrous.training.recipe import list_recipes, read_recipe

CASCADE = "deeplab_v3_cascade.resnet50_beta"


def test_dilations_at_stride_16_and_8() -> None:
    model = create_model("deeplab_v3.resnet101_beta", width=0.125)
    assert [unit.conv2.dilation[0] for unit in model.backbone.layer4] == [2, 4, 8]  # multi-grid (1, 2, 4)
    assert [branch[0].dilation[0] for branch in list(model.aspp.branches)[1:]] == [6, 12, 18]
    model.set_output_stride(8)
    assert [unit.conv2.dilation[0] for unit in model.backbone.layer4] == [4, 8, 16]
    assert [branch[0].dilation[0] for branch in list(model.aspp.branches)[1:]] == [12, 24, 36]


def resnet_recipes() -> list[str]:
    return [name for name in list_recipes() if name.startswith(("deeplab_v3_resnet", "deeplab_v3_plus_resnet"))]


@pytest.mark.parametrize("name", resnet_recipes())
def test_recipes_beside_published_figures_have_the_published_rates(name: str) -> None:
    """Sections 3.2.1 and 3.3: the multi-grid (1, 2, 4) multiplies the rate of block 4, 2 at stride 16 and 4 at 8."""
    for stage in read_recipe(name).stages:
        with torch.device("meta"):
            model = create_model(stage.model.id, **stage.model.options)
        for stride, conv4, conv5, aspp in ((16, {1}, [2, 4, 8], [6, 12, 18]), (8, {2}, [4, 8, 16], [12, 24, 36])):
            model.set_output_stride(stride)
            assert set(rates(model.backbone.layer3)) == conv4
            assert rates(model.backbone.layer4) == conv5
            assert [branch[0].dilation[0] for branch in list(model.aspp.branches)[1:]] == aspp


@pytest.mark.parametrize("name", ["resnet50", "resnet50_beta"])
def test_dilating_whole_stages_gives_the_published_rates_to_both_layouts(name: str) -> None:
    whole = {"whole_stage": True}
    model = create_model(f"deeplab_v3.{name}", width=0.125, backbone_options=whole)
    assert [rates(stage) for stage in model.backbone.stages()[2:]] == [[1] * 6, [2, 4, 8]]
    model.set_output_stride(8)
    assert [rates(stage) for stage in model.backbone.stages()[1:]] == [[1] * 4, [2] * 6, [4, 8, 16]]
    cascade = create_model(f"deeplab_v3_cascade.{name}", width=0.125, backbone_options=whole)
    assert [rates(stage) for stage in cascade.backbone.stages()[3:]] == [[2, 4, 2], [4, 8, 4], [8, 16, 8], [16, 32, 16]]


def test_torchvisions_layout_has_other_rates_by_default() -> None:
    model = create_model("deeplab_v3.resnet50", width=0.125)
    assert rates(model.backbone.layer4) == [1, 4, 8]
    assert rates(create_model("deeplab_v3_cascade.resnet50", width=0.125).backbone.layer4) == [1, 4, 2]


def test_size_of_the_scores_of_513_pixels() -> None:
    with torch.device("meta"):
        model = create_model("deeplab_v3.resnet50").eval()
    assert model.scores(torch.empty(1, 3, 513, 513, device="meta")).shape == (1, 21, 33, 33)


def test_a_fourth_branch_at_rate_24() -> None:
    model = create_model("deeplab_v3.resnet50", width=0.125, atrous_rates=(6, 12, 18, 24))
    assert [branch[0].dilation[0] for branch in list(model.aspp.branches)[1:]] == [6, 12, 18, 24]


def test_the_mobilenet_head_has_no_rates_and_a_small_initial_classifier() -> None:
    model = create_model("deeplab_v3.mobilenet_v2")
    assert len(model.aspp.branches) == 1
    assert 0.005 < model.classifier.weight.std() < 0.012  # truncated normal, 0.01
    assert (model.classifier.bias == 0).all()


def test_the_auxiliary_loss_has_half_the_weight_by_default() -> None:
    model = create_model("deeplab_v3.resnet50", width=0.125, auxiliary=True)
    assert [weight for _, weight in model.training_outputs(torch.randn(2, 3, 33, 33))] == [1.0, 0.5]
    model = create_model("deeplab_v3.resnet50", width=0.125, auxiliary=True, auxiliary_weight=0.4)
    assert [weight for _, weight in model.training_outputs(torch.randn(2, 3, 33, 33))] == [1.0, 0.4]


def test_xception_applies_multi_grid_to_the_exit_flow() -> None:
    model = create_model("deeplab_v3.xception41", width=0.125, multi_grid=(1, 2, 4))
    assert [conv[0][0].dilation[0] for conv in model.backbone.exit2] == [2, 4, 8]
    model.set_output_stride(8)
    assert [conv[0][0].dilation[0] for conv in model.backbone.exit2] == [4, 8, 16]
    plain = create_model("deeplab_v3.xception41", width=0.125)
    assert [conv[0][0].dilation[0] for conv in plain.backbone.exit2] == [2, 2, 2]


def rates(stage: torch.nn.Module) -> list[int]:
    return [unit.conv2.dilation[0] for unit in stage]


def test_blocks_of_the_cascade_have_rates_2_4_8_16() -> None:
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


@pytest.mark.parametrize("name", ["deeplab_v3.resnet50", "deeplab_v3_plus.resnet50"])
@torch.no_grad()
def test_only_strides_at_which_all_rates_are_integers_are_possible(name: str) -> None:
    model = create_model(name, width=0.125, atrous_rates=(5, 12)).eval()
    assert model.possible_output_strides() == [2, 4, 8, 16]
    image = torch.randn(1, 3, 65, 65)
    logits = model(image)
    with pytest.raises(AtrousError, match=r"atrous_rates 5 .* output stride 32: .* multiples of 2"):
        model.set_output_stride(32)
    assert model.output_stride == 16
    assert torch.equal(model(image), logits)
    for stride in (*model.possible_output_strides()[1:], 16):
        model.set_output_stride(stride)
        assert model.backbone.output_stride == stride
    assert torch.equal(model(image), logits)


def test_invalid_arguments() -> None:
    with pytest.raises(AtrousError, match="takes 3 factors"):
        create_model("deeplab_v3.resnet50", width=0.125, multi_grid=(1, 2))
    with pytest.raises(AtrousError, match="multiples of 2"):
        create_model("deeplab_v3.resnet50", width=0.125, output_stride=32, atrous_rates=(5,))
    with pytest.raises(AtrousError, match=r"Did you mean 'deeplab_v3\.xception65'"):
        create_model("deeplab_v3.xeption65")


def test_invalid_arguments_of_the_cascade() -> None:
    with pytest.raises(AtrousError, match="3 factors are needed"):
        create_model(CASCADE, width=0.125, multi_grid=(1, 2))
    with pytest.raises(AtrousError, match="stages 3"):
        create_model(CASCADE, width=0.125, stages=3)
    with pytest.raises(AtrousError, match="256"):
        create_model(CASCADE, width=0.125, output_stride=12)
