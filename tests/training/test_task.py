"""The parts of a step, each against the paper's formula: rates, frozen parts, averages, portions, starts."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from atrous import AtrousError, create_model
from atrous.card import Card, Preprocessing
from atrous.data.datasets import voc
from atrous.data.loading import duplicate_hard_images
from atrous.layers.norm import BatchNorm2d
from atrous.models import build_from_card
from atrous.training.initialize import class_axes, start_backbone, transfer
from atrous.training.loader import StepBatchSampler, join, open_training_data
from atrous.training.recipe import DataConfig
from tests.training.conftest import small, write_camvid, write_sbd, write_voc

pytest.importorskip("lightning", reason="needs the extra 'train'")

from atrous.training.task import MovingAverage, SegmentationTask, batch_norm_warning

MODEL = "deeplab_v3_plus.mobilenet_v2"


def tiny(**options) -> torch.nn.Module:
    torch.manual_seed(0)
    return create_model(MODEL, width=0.125, num_classes=11, **options)


def task_of(*overrides: str) -> SegmentationTask:
    stage = small("camvid:nowhere", *overrides).stages[0]
    return SegmentationTask(tiny(), stage, steps=100)


def card_of(classes: tuple[str, ...], model: str = MODEL) -> Card:
    return Card(
        model=model,
        arguments={"width": 0.125},
        classes=classes,
        colors=voc.COLORS[: len(classes)],
        preprocessing=Preprocessing(),
    )


def test_rates_and_decay_of_the_groups() -> None:
    """DeepLab v2: the classifier at ten times the rate, biases at twice theirs, without decay."""
    task = task_of("optimizer={lr: 0.001, head: 10, bias: 2, decay_bias: false, weight_decay: 0.0005}")
    groups = task.configure_optimizers().param_groups
    rates = {id(p): (group["full_lr"], group["weight_decay"]) for group in groups for p in group["params"]}
    classifier = task.model.classifier
    assert rates[id(classifier.weight)] == (pytest.approx(0.01), 0.0005)
    assert rates[id(classifier.bias)] == (pytest.approx(0.02), 0)
    first = next(p for name, p in task.model.backbone.named_parameters() if name.endswith("weight"))
    assert rates[id(first)] == (0.001, 0.0005)


@pytest.mark.parametrize(
    ("state", "moves", "learns"), [("train", True, True), ("frozen", False, True), ("frozen_affine", False, False)]
)
def test_batch_norm_keeps_its_state(state: str, moves: bool, learns: bool) -> None:
    task = task_of(f"batch_norm={state}", "batch_norm_momentum=0.0003")
    task.eval()
    task.train()
    layer = next(module for module in task.model.modules() if isinstance(module, BatchNorm2d))
    before = layer.running_mean.clone()
    task.model(torch.randn(2, 3, 33, 33))
    assert (not torch.equal(before, layer.running_mean)) == moves
    assert layer.weight.requires_grad == learns
    assert layer.momentum == 0.0003


def test_a_small_batch_with_batch_norm_is_warned_of() -> None:
    stage = small("camvid:x", "batch=16").stages[0]
    assert not batch_norm_warning(tiny(), stage, processes=4)
    alone = small("camvid:x", "batch=16", "batch_norm=train").stages[0]
    assert "4 images at a time" in batch_norm_warning(tiny(), alone, processes=4)
    frozen = task_of("batch=1", "batch_norm=frozen")
    assert not batch_norm_warning(frozen.model, frozen.stage, processes=1)


def test_frozen_parts_do_not_learn() -> None:
    task = task_of("freeze=[backbone]")
    assert not any(p.requires_grad for p in task.model.backbone.parameters())
    assert not any(module.training for module in task.train().model.backbone.modules())
    assert all(p.requires_grad for p in task.model.classifier.parameters())
    with pytest.raises(AtrousError, match=r"no part 'backbon'\. Did you mean 'backbone'"):
        task_of("freeze=[backbon]")


def test_pixels_are_prepared_as_the_card_says() -> None:
    task = task_of("preprocessing={mean: [1, 2, 3], std: [2, 2, 2], channel_order: BGR}")
    image = torch.tensor([30, 20, 10], dtype=torch.uint8)[None, :, None, None]
    assert task.prepare(image).flatten().tolist() == [4.5, 9, 13.5]


def test_moving_average() -> None:
    model = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.zeros_(model.weight)
    average = MovingAverage(model, decay=0.5)
    expected = 0.0
    for update in range(20):
        torch.nn.init.ones_(model.weight)
        average.update(model)
        decay = min(0.5, (1 + update) / (10 + update))
        expected = decay * expected + (1 - decay)
    assert average.values["weight"].item() == pytest.approx(expected)
    with average.in_place_of(model):
        assert model.weight.item() == pytest.approx(expected)
    assert model.weight.item() == 1


def test_every_image_comes_once_an_epoch_however_it_is_shared_out() -> None:
    whole = list(StepBatchSampler(images=10, batch=4, steps=5))
    assert Counter(index for keys in whole for epoch, index in keys if epoch == 0) == Counter(range(10))
    assert Counter(index for keys in whole for epoch, index in keys if epoch == 1) == Counter(range(10))
    assert list(StepBatchSampler(images=10, batch=4, steps=5, start=3)) == whole[3:]
    parts = [list(StepBatchSampler(10, 4, 5, accumulate=2, rank=rank, processes=2)) for rank in range(2)]
    for step, keys in enumerate(whole):
        shared = [key for part in parts for portion in part[2 * step : 2 * step + 2] for key in portion]
        assert sorted(shared) == sorted(keys)
    assert [len(keys) for keys in StepBatchSampler(images=1, batch=3, steps=2)] == [3, 3]


def test_bootstrapping_lists_hard_images_again(tmp_path: Path) -> None:
    entry = DataConfig(train=(f"voc2012:{write_voc(tmp_path / 'voc')}?split=trainval",))
    plain = open_training_data(entry)
    hard = sum(bool(np.isin(plain.labels(i), [voc.CLASSES.index(n) for n in voc.HARD_CLASSES]).any()) for i in range(4))
    again = open_training_data(entry.model_copy(update={"bootstrap": voc.HARD_CLASSES, "times": 3}))
    assert hard > 0
    assert len(again) == 4 + 2 * hard
    assert len(duplicate_hard_images(plain, voc.HARD_CLASSES)) == 4 + hard


def test_data_sets_join_by_their_classes(tmp_path: Path) -> None:
    pascal = f"voc2012:{write_voc(tmp_path / 'voc')}?split=train"
    both = open_training_data(DataConfig(train=(pascal, f"sbd:{write_sbd(tmp_path / 'sbd')}?split=train")))
    assert len(both) == 4
    assert all(both.labels(index).shape == (60, 80) for index in range(4))
    from atrous.data import open_dataset

    with pytest.raises(AtrousError, match="their classes are not the same"):
        join([open_dataset(pascal), open_dataset(f"camvid:{write_camvid(tmp_path / 'camvid')}")])


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
        start_backbone(tiny(), str(tmp_path / "unet.pth"))
    with pytest.raises(AtrousError, match="there is no such file"):
        start_backbone(tiny(), "nowhere.pth")
