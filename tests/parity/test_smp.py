"""Networks of segmentation_models_pytorch and ours compute the same from the same state dict."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import atrous
from atrous import AtrousError
from tests.parity.networks import check, import_torchvision, load, relative_difference
from tests.weights.importers.library_networks import randomize

smp = import_torchvision("segmentation_models_pytorch")

NETWORKS = ("DeepLabV3", "DeepLabV3Plus", "PSPNet")
ENCODERS = ("resnet50", "mobilenet_v2")


def build(network: str, encoder: str, **options) -> torch.nn.Module:
    return randomize(getattr(smp, network)(encoder, encoder_weights=None, **{"classes": 5, **options}))


@torch.no_grad()
@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("network", NETWORKS)
def test_logits(network: str, encoder: str, tmp_path: Path, record_property: pytest.RecordProperty) -> None:
    theirs = build(network, encoder)
    image = torch.randn(2, 3, 64, 96)
    check(load(theirs, tmp_path / "smp.pth")(image), theirs(image), record_property)


OPTIONS = {  # smp's network and options; arguments of ours that leave no trace in the file
    "stride 16": ("DeepLabV3", {"encoder_output_stride": 16}, {"output_stride": 16, "atrous_rates": [12, 24, 36]}),
    "stride 8": ("DeepLabV3Plus", {"encoder_output_stride": 8}, {"output_stride": 8, "atrous_rates": [6, 12, 18]}),
    "separable": ("DeepLabV3", {"decoder_aspp_separable": True, "decoder_channels": 64}, {}),
    "not separable": ("DeepLabV3Plus", {"decoder_aspp_separable": False, "decoder_channels": 64}, {}),
    "depth 4": ("PSPNet", {"encoder_depth": 4, "upsampling": 16}, {}),
    "depth 5": ("PSPNet", {"encoder_depth": 5, "upsampling": 32, "psp_out_channels": 64}, {}),
}


@torch.no_grad()
@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("encoder", ENCODERS)
def test_logits_with_other_options(
    encoder: str, name: str, tmp_path: Path, record_property: pytest.RecordProperty
) -> None:
    network, options, arguments = OPTIONS[name]
    theirs = build(network, encoder, **options)
    path = tmp_path / "smp.safetensors"
    save_file(theirs.state_dict(), path)
    model = atrous.load(path, arguments=arguments)
    image = torch.randn(1, 3, 64, 96)
    check(model(image), theirs(image), record_property)


@torch.no_grad()
@pytest.mark.parametrize("encoder", ENCODERS)
def test_dilation_of_whole_stages_is_not_exact(
    encoder: str, tmp_path: Path, record_property: pytest.RecordProperty
) -> None:
    """Features at stride 8, every fourth pixel, and those of the same weights at stride 32."""
    whole = load(build("DeepLabV3", encoder), tmp_path / "smp.pth")
    exact = atrous.load(tmp_path / "smp.pth", arguments={"backbone_options": {"whole_stage": False}})
    assert exact.card is not None
    assert exact.card.arguments["backbone_options"]["whole_stage"] is False
    image = torch.randn(1, 3, 65, 97)
    differences = []
    for model in (whole, exact):
        model.backbone.set_output_stride(32)
        strided = model.backbone(image)[-1]
        model.backbone.set_output_stride(8)
        differences.append(relative_difference(model.backbone(image)[-1][..., ::4, ::4], strided))
    record_property("whole stages", differences[0])
    record_property("exact", differences[1])
    assert differences[0] > 1e-2
    assert differences[1] < 1e-5


@torch.no_grad()
def test_a_single_output_becomes_two_classes(tmp_path: Path) -> None:
    theirs = build("DeepLabV3Plus", "mobilenet_v2", classes=1)
    model = load(theirs, tmp_path / "smp.pth")
    image = torch.randn(1, 3, 64, 96)
    logit = theirs(image)
    assert model.num_classes == 2
    torch.testing.assert_close(model(image).softmax(1)[:, 1:], logit.sigmoid(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("network", "encoder", "message"),
    [
        ("Unet", "resnet50", "is a U-Net on a classifier of segmentation_models_pytorch; expected its DeepLabV3"),
        ("FPN", "resnet50", "is another network of segmentation_models_pytorch; expected its DeepLabV3"),
        ("DeepLabV3Plus", "resnet34", "the backbone is ResNet-34; expected ResNet-50, -101 or -152"),
        ("DeepLabV3", "resnet18", "the backbone is ResNet-18; expected ResNet-50, -101 or -152"),
        ("DeepLabV3Plus", "efficientnet-b0", "the encoder, with keys such as 'encoder._conv_stem.weight', is not supp"),
    ],
)
def test_other_networks_are_refused_by_name(network: str, encoder: str, message: str, tmp_path: Path) -> None:
    torch.save(getattr(smp, network)(encoder, encoder_weights=None).state_dict(), tmp_path / "smp.pth")
    with pytest.raises(AtrousError, match=message):
        atrous.load(tmp_path / "smp.pth")
