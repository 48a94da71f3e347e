"""Transfer of weights to networks of other classes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import atrous
from atrous import AtrousError
from atrous.card import Card, Preprocessing
from atrous.data.datasets import voc
from atrous.models import SegmentationModel, build_from_card
from atrous.weights.transfer import class_axes, transfer
from tests.contract.trained import imitate_training

MODEL = "deeplab_v3_plus.mobilenet_v2"


def card_of(classes: tuple[str, ...], model: str = MODEL) -> Card:
    return Card(
        model=model,
        arguments={"width": 0.125},
        classes=classes,
        colors=voc.COLORS[: len(classes)],
        preprocessing=Preprocessing(),
    )


def test_fine_tuning_copies_all_but_the_last_layer_and_rows_of_the_same_name() -> None:
    old_card, new_card = card_of(("sky", "road", "car")), card_of(("car", "dog", "sky", "cat"))
    source, target = build_from_card(old_card), build_from_card(new_card)
    fresh = target.classifier.weight.detach().clone()
    report = transfer(target, new_card, source.state_dict(), old_card, "a file")
    assert torch.equal(target.classifier.weight[0], source.classifier.weight[2])
    assert torch.equal(target.classifier.bias[2], source.classifier.bias[0])
    assert torch.equal(target.classifier.weight[[1, 3]], fresh[[1, 3]])
    for (name, value), other in zip(source.backbone.named_parameters(), target.backbone.parameters(), strict=True):
        assert torch.equal(value, other), name
    assert report.classes == ("car", "sky")
    assert "last layer: rows of the classes of the same name: car, sky; new: dog, cat" in str(report)


def test_classes_without_a_name_in_common_are_all_new() -> None:
    old_card, new_card = card_of(("sky", "road")), card_of(("cat", "dog", "cow"))
    source, target = build_from_card(old_card), build_from_card(new_card)
    fresh = target.classifier.weight.detach().clone()
    report = transfer(target, new_card, source.state_dict(), old_card, "a file")
    assert torch.equal(target.classifier.weight, fresh)
    assert report.new_classes == ("cat", "dog", "cow")


def test_layers_between_classes_are_copied_on_both_sides() -> None:
    """GCN's boundary refinement goes from classes to classes."""
    old_card, new_card = (card_of(names, "gcn.resnet50") for names in (("a", "b", "c"), ("c", "a")))
    source, target = build_from_card(old_card), build_from_card(new_card)
    transfer(target, new_card, source.state_dict(), old_card, "a file")
    key = next(key for key, axes in class_axes(new_card).items() if axes == (0, 1) and key.endswith("weight"))
    assert torch.equal(target.state_dict()[key][1, 0], source.state_dict()[key][0, 2])


def test_networks_with_nothing_in_common() -> None:
    new_card, old_card = card_of(("a", "b")), card_of(("a", "b"), "unet.padded")
    with pytest.raises(AtrousError, match="no tensor in common"):
        transfer(build_from_card(new_card), new_card, {"x": torch.zeros(1)}, old_card, "a file")


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("deeplab_v2.resnet101", r"backbone\.layer2\.0\.conv1 has stride 1 in"),
        ("deeplab_v3.resnet101_beta", "conv2 has"),
    ],
)
def test_a_network_with_strides_elsewhere_is_refused(name: str, layer: str) -> None:
    """The tensors have the same names and shapes, but the features would be wrong."""
    old_card = card_of(("a", "b"), "deeplab_v3.resnet101")
    options = {"width": 0.125, "backbone_options": {"stem": "plain"}}
    new_card = card_of(("a", "b"), name).model_copy(update={"arguments": options})
    tensors = build_from_card(old_card).state_dict()
    with pytest.raises(AtrousError, match=rf"a file: .*{layer}"):
        transfer(build_from_card(new_card), new_card, tensors, old_card, "a file")


def test_another_output_stride_is_no_other_geometry() -> None:
    old_card = card_of(("a", "b"), "deeplab_v3.resnet50")
    new_card = old_card.model_copy(update={"arguments": {"width": 0.125, "output_stride": 8}})
    source, target = build_from_card(old_card), build_from_card(new_card)
    assert not transfer(target, new_card, source.state_dict(), old_card, "a file").fresh


def test_a_number_of_classes_gives_a_new_classifier(
    saved: Path, model: SegmentationModel, image: torch.Tensor, caplog: pytest.LogCaptureFixture
) -> None:
    other = atrous.load(saved, num_classes=7)
    assert other(image).shape == (1, 7, 65, 65)
    assert other.card is not None
    assert other.card.classes == tuple(f"class {index}" for index in range(7))
    assert other.card.preprocessing == model.card.preprocessing  # type: ignore[union-attr]
    assert torch.equal(other.backbone(image)[-1], model.backbone(image)[-1])
    assert "The classifier is new and has to be trained" in caplog.text
    assert "newly initialized: classifier" in caplog.text


def test_with_as_many_classes_the_classifier_is_new_too(saved: Path, model: SegmentationModel) -> None:
    other = atrous.load(saved, num_classes=21)
    assert not torch.equal(other.classifier.weight, model.classifier.weight)


def test_classes_of_the_same_name_keep_their_rows_and_colors(saved: Path, model: SegmentationModel) -> None:
    other = atrous.load(saved, classes=["umbrella", "dog"])
    dog = voc.CLASSES.index("dog")
    assert torch.equal(other.classifier.weight[1], model.classifier.weight[dog])
    assert other.card is not None
    assert other.card.colors == (voc.COLORS[0], voc.COLORS[dog])
    assert not other.card.measured


def test_known_classes_alone_are_trained(saved: Path, image: torch.Tensor, caplog: pytest.LogCaptureFixture) -> None:
    scores = atrous.load(saved).scores(image)
    wanted = [voc.CLASSES.index(name) for name in ("person", "background")]
    other = atrous.load(saved, classes=["person", "background"])
    torch.testing.assert_close(other.scores(image), scores[:, wanted])
    assert not caplog.records


def test_a_data_set_gives_names_and_colors(saved: Path) -> None:
    other = atrous.load(saved, classes=card_of(("car", "dog")))
    assert other.card is not None
    assert (other.card.classes, other.card.colors) == (("car", "dog"), voc.COLORS[:2])


def test_the_new_network_is_saved_and_loaded(saved: Path, image: torch.Tensor, tmp_path: Path) -> None:
    other = atrous.load(saved, classes=["a", "b"])
    atrous.weights.save(other, tmp_path / "b.safetensors")
    assert torch.equal(atrous.load(tmp_path / "b.safetensors")(image), other(image))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_classes": 0}, "at least one class"),
        ({"num_classes": 2, "classes": ["a", "b"]}, "both given"),
        ({"classes": []}, "one or more different names"),
        ({"classes": ["a", "a"]}, "one or more different names"),
        ({"classes": "road"}, "expected a list of names"),
    ],
)
def test_invalid_classes_are_refused(saved: Path, options: dict[str, object], message: str) -> None:
    with pytest.raises(AtrousError, match=message):
        atrous.load(saved, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("options", [{}, {"decoder_separable": False}, {"conv3_tap": True}])
def test_a_decoder_that_is_added_begins_as_the_identity(options: dict[str, object]) -> None:
    """DeepLab v3+ from DeepLab v3 computes its scores: with aligned corners, two upsamplings are one."""
    arguments = {"width": 0.125, "align_corners": True}
    old_card = card_of(("sky", "road", "car"), "deeplab_v3.mobilenet_v2").model_copy(update={"arguments": arguments})
    new_card = old_card.model_copy(update={"model": MODEL, "arguments": {**arguments, "atrous_rates": (), **options}})
    encoder, model = build_from_card(old_card), build_from_card(new_card)
    imitate_training(encoder)
    report = transfer(model, new_card, encoder.state_dict(), old_card, "a file")
    assert any(name.startswith("decoder") for name in report.fresh)
    image = torch.randn(1, 3, 65, 65)
    with torch.no_grad():
        torch.testing.assert_close(model.eval()(image), encoder.eval()(image), rtol=1e-4, atol=1e-4)
