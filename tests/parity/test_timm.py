"""Classifiers of timm and ours compute the same from the same weights, drawn at random with their batch statistics."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from atrous.backbones import create_backbone
from atrous.models import create_model
from atrous.weights.pretrained import load_pretrained_backbone
from tests.contract.trained import imitate_training
from tests.offline import skip_without

skip_without("timm")

from atrous.backbones.timm_library import import_timm  # noqa: E402

timm = import_timm()

PAIRS = {  # timm's name; ours, the options, and a network on it
    "xception41": ("xception41", {}, "deeplab_v3_plus.xception41"),
    "xception65": ("xception65", {}, "deeplab_v3_plus.xception65"),
    "xception71": ("xception71", {}, "deeplab_v3_plus.xception71"),
    "resnet50s": ("resnet50", {"stem": "deep"}, "pspnet.resnet50"),
    "resnet101s": ("resnet101", {"stem": "deep"}, "pspnet.resnet101"),
    "resnet152s": ("resnet152", {"stem": "deep"}, "pspnet.resnet152"),
}
EVERY_PAIR = pytest.mark.parametrize("name", PAIRS)


def random_classifier(name: str) -> nn.Module:
    torch.manual_seed(0)
    classifier = timm.create_model(name)
    imitate_training(classifier)
    return classifier.eval()


def relative_difference(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    assert ours.shape == theirs.shape
    assert theirs.std() > 1e-3
    return ((ours - theirs).abs().max() / theirs.abs().max()).item()


@EVERY_PAIR
@torch.no_grad()
def test_logits_of_the_classifier(name: str, record_property: pytest.RecordProperty) -> None:
    theirs = random_classifier(name)
    backbone, options, _ = PAIRS[name]
    ours = create_backbone(backbone, num_classes=1000, **options).eval()
    ours.load_state_dict(theirs.state_dict())
    image = torch.randn(2, 3, 97, 129)
    difference = relative_difference(ours.classify(image), theirs(image))
    record_property("relative_difference", difference)
    assert difference <= 1e-4


@EVERY_PAIR
@torch.no_grad()
def test_features_of_a_segmentation_network_from_a_file(name: str, tmp_path: Path) -> None:
    """The file as timm would release it loads as `backbone_weights`, at output stride 32 and so at every other."""
    theirs = random_classifier(name)
    torch.save(theirs.state_dict(), tmp_path / "released.pth")
    model = create_model(PAIRS[name][2]).eval()
    load_pretrained_backbone(model, str(tmp_path / "released.pth"))
    model.backbone.set_output_stride(32)
    image = torch.randn(1, 3, 97, 129)
    assert relative_difference(model.backbone(image)[-1], theirs.forward_features(image)) <= 1e-4


@EVERY_PAIR
def test_mean_std_and_license_are_those_that_timm_gives(name: str) -> None:
    backbone, options, _ = PAIRS[name]
    entry = create_backbone(backbone, width=0.125, **options).pretrained["imagenet"]
    tag = "gluon_in1k" if name.startswith("resnet") else "tf_in1k"
    config = timm.get_pretrained_cfg(f"{name}.{tag}")
    assert entry.mean == pytest.approx([255 * value for value in config.mean])
    assert entry.std == pytest.approx([255 * value for value in config.std])
    assert entry.license.lower() == config.license
    assert config.url in ("", entry.url)
