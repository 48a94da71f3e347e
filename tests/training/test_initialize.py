"""Initialization from weights of other classes, and of backbones."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from atrous import AtrousError, create_model
from atrous.card import Card, Preprocessing
from atrous.data.datasets import voc
from atrous.models import build_from_card
from atrous.training.initialize import class_axes, start_backbone, transfer
from tests.training.conftest import MODEL, tiny_model


def card_of(classes: tuple[str, ...], model: str = MODEL) -> Card:
    return Card(
        model=model,
        arguments={"width": 0.125},
        classes=classes,
        colors=voc.COLORS[: len(classes)],
        preprocessing=Preprocessing(),
    )


def test_fine_tuning_copies_all_but_the_last_layer_and_rows_of_the_same_name() -> None:
    theirs, ours = card_of(("sky", "road", "car")), card_of(("car", "dog", "sky", "cat"))
    source, target = build_from_card(theirs), build_from_card(ours)
    fresh = target.classifier.weight.detach().clone()
    started = transfer(target, ours, source.state_dict(), theirs, "a file")
    assert torch.equal(target.classifier.weight[0], source.classifier.weight[2])
    assert torch.equal(target.classifier.bias[2], source.classifier.bias[0])
    assert torch.equal(target.classifier.weight[[1, 3]], fresh[[1, 3]])
    for (name, value), other in zip(source.backbone.named_parameters(), target.backbone.parameters(), strict=True):
        assert torch.equal(value, other), name
    assert started.classes == ("car", "sky")
    assert "of the last layer the classes of the same name: car, sky; new: dog, cat" in str(started)


def test_layers_between_classes_are_copied_on_both_sides() -> None:
    """GCN's boundary refinement goes from classes to classes."""
    theirs, ours = (card_of(names, "gcn.resnet50") for names in (("a", "b", "c"), ("c", "a")))
    source, target = build_from_card(theirs), build_from_card(ours)
    transfer(target, ours, source.state_dict(), theirs, "a file")
    key = next(key for key, axes in class_axes(ours).items() if axes == (0, 1) and key.endswith("weight"))
    assert torch.equal(target.state_dict()[key][1, 0], source.state_dict()[key][0, 2])


def test_networks_with_nothing_in_common() -> None:
    ours, theirs = card_of(("a", "b")), card_of(("a", "b"), "unet.padded")
    with pytest.raises(AtrousError, match="no tensor in common"):
        transfer(build_from_card(ours), ours, {"x": torch.zeros(1)}, theirs, "a file")


def test_a_backbone_of_another_kind_is_refused(tmp_path: Path) -> None:
    torch.save(create_model("unet.padded", width=0.125).state_dict(), tmp_path / "unet.pth")
    with pytest.raises(AtrousError, match="not the weights of MobileNetV2"):
        start_backbone(tiny_model(), str(tmp_path / "unet.pth"))
    with pytest.raises(AtrousError, match="there is no such file"):
        start_backbone(tiny_model(), "nowhere.pth")
