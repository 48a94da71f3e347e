"""DeepLab v3 and v3+: what their papers say that a count of parameters does not show."""

from __future__ import annotations

import pytest
import torch

from atrous import AtrousError, create_model


def test_dilations_at_stride_16_and_8() -> None:
    model = create_model("deeplab_v3.resnet101_beta", width=0.125)
    assert [unit.conv2.dilation[0] for unit in model.backbone.layer4] == [2, 4, 8]  # multi-grid (1, 2, 4)
    assert [branch[0].dilation[0] for branch in list(model.aspp.branches)[1:]] == [6, 12, 18]
    model.set_output_stride(8)
    assert [unit.conv2.dilation[0] for unit in model.backbone.layer4] == [4, 8, 16]
    assert [branch[0].dilation[0] for branch in list(model.aspp.branches)[1:]] == [12, 24, 36]


@pytest.mark.parametrize(("name", "side"), [("deeplab_v3.resnet50", 33), ("deeplab_v3_plus.resnet50", 129)])
def test_513_pixels_are_scored_at(name: str, side: int) -> None:
    with torch.device("meta"):
        model = create_model(name).eval()
    assert model.scores(torch.empty(1, 3, 513, 513, device="meta")).shape == (1, 21, side, side)


def test_the_decoder_joins_48_channels_of_stride_4_with_256() -> None:
    with torch.device("meta"):
        model = create_model("deeplab_v3_plus.resnet101")
    assert model.decoder.reduce[0].weight.shape == (48, 256, 1, 1)
    assert [tuple(conv[0].weight.shape) for conv in model.decoder.refine] == [(256, 304, 3, 3), (256, 256, 3, 3)]


def test_the_released_mobilenet_head_has_no_rates_and_the_classifier_starts_small() -> None:
    model = create_model("deeplab_v3.mobilenet_v2")
    assert len(model.aspp.branches) == 1
    assert 0.005 < model.classifier.weight.std() < 0.012  # truncated normal, 0.01
    assert (model.classifier.bias == 0).all()


def test_torchvisions_auxiliary_head_weighs_half() -> None:
    model = create_model("deeplab_v3.resnet50", width=0.125, auxiliary=True)
    assert [weight for _, weight in model.training_outputs(torch.randn(2, 3, 33, 33))] == [1.0, 0.5]


def test_bad_arguments() -> None:
    with pytest.raises(AtrousError, match="takes 3 factors"):
        create_model("deeplab_v3.resnet50", width=0.125, multi_grid=(1, 2))
    with pytest.raises(AtrousError, match="choose multiples of 2"):
        create_model("deeplab_v3.resnet50", width=0.125, output_stride=32, atrous_rates=(5,))
