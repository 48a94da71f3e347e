"""A stage made ready: learning rates of the papers, batch normalization, frozen parts, normalized pixels."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from atrous import AtrousError, load
from atrous.data import open_dataset
from atrous.data.dataset import SegmentationDataset
from atrous.layers.norm import BatchNorm2d, folded_batch_norms
from atrous.models import SegmentationModel
from atrous.training.config import StageConfig
from atrous.training.recipe import Recipe
from atrous.training.schedules import Poly, set_learning_rate
from atrous.training.stage import (
    batch_norm_warning,
    build_model,
    make_optimizer,
    normalize,
    prepare_model,
    restore_batch_norm,
)
from atrous.weights import save
from tests.training.conftest import draw_pair, small, tiny_model, write_camvid, write_pair


def stage_of(*overrides: str) -> StageConfig:
    return small("camvid:nowhere", *overrides).stages[0]


def prepared(*overrides: str) -> torch.nn.Module:
    model = tiny_model()
    prepare_model(model, stage_of(*overrides))
    return model


def test_learning_rates_and_weight_decay_of_the_groups() -> None:
    """DeepLab v2: the classifier at ten times the rate, biases at twice theirs, without decay."""
    stage = stage_of("optimizer={lr: 0.001, lr_mult: {head: 10, bias: 2}, decay_bias: false, weight_decay: 0.0005}")
    model = tiny_model()
    optimizer = make_optimizer(model, stage)
    set_learning_rate(optimizer, Poly()(15000, 30000))
    factor = 0.5**0.9
    rates = {id(p): (group["lr"], group["weight_decay"]) for group in optimizer.param_groups for p in group["params"]}
    assert rates[id(model.classifier.weight)] == (pytest.approx(0.01 * factor), 0.0005)
    assert rates[id(model.classifier.bias)] == (pytest.approx(0.02 * factor), 0)
    first = next(p for name, p in model.backbone.named_parameters() if name.endswith("weight"))
    assert rates[id(first)] == (pytest.approx(0.001 * factor), 0.0005)


@pytest.mark.parametrize(
    ("state", "moves", "trained"), [("train", True, True), ("frozen", False, True), ("frozen_affine", False, False)]
)
def test_batch_norm_keeps_its_state(state: str, moves: bool, trained: bool) -> None:
    model = prepared(f"batch_norm={state}", "batch_norm_momentum=0.0003")
    model.eval()
    model.train()
    layer = next(module for module in model.modules() if isinstance(module, BatchNorm2d))
    before = layer.running_mean.clone()
    model(torch.randn(2, 3, 33, 33))
    assert (not torch.equal(before, layer.running_mean)) == moves
    assert layer.weight.requires_grad == trained
    assert layer.momentum == 0.0003


def test_small_batches_with_batch_norm_are_warned_of() -> None:
    assert not batch_norm_warning(tiny_model(), stage_of("batch=16"), processes=4)
    per_process = stage_of("batch=16", "batch_norm=train")
    assert "4 images at a time" in batch_norm_warning(tiny_model(), per_process, processes=4)
    frozen = ("batch=1", "batch_norm=frozen")
    assert not batch_norm_warning(prepared(*frozen), stage_of(*frozen), processes=1)
    head = ("batch=1", "batch_norm=train")
    assert batch_norm_warning(prepared(*head, "freeze=[backbone]"), stage_of(*head), processes=1)
    everywhere = "freeze=[backbone, aspp, decoder]"
    assert not batch_norm_warning(prepared(*head, everywhere), stage_of(*head), processes=1)


def test_frozen_parts_are_not_trained_and_run_in_evaluation_mode() -> None:
    model = prepared("freeze=[backbone]")
    assert not any(p.requires_grad for p in model.backbone.parameters())
    assert not any(module.training for module in model.backbone.modules())
    assert all(p.requires_grad for p in model.classifier.parameters())
    with pytest.raises(AtrousError, match=r"no submodule 'backbon'\. Did you mean 'backbone'"):
        prepared("freeze=[backbon]")
    model.requires_grad_(False)
    with pytest.raises(AtrousError, match="leaves no parameters to train"):
        make_optimizer(model, stage_of("freeze=[backbone, aspp]"))


def test_pixels_are_normalized_as_the_card_says() -> None:
    image = torch.tensor([30, 20, 10], dtype=torch.uint8)[None, :, None, None]
    bgr = stage_of("preprocessing={mean: [1, 2, 3], std: [2, 2, 2], channel_order: BGR}")
    assert normalize(image, bgr).flatten().tolist() == [4.5, 9, 13.5]
    images = torch.zeros(2, 3, 4, 5, dtype=torch.uint8)
    assert normalize(images, stage_of("channels_last=true")).is_contiguous(memory_format=torch.channels_last)
    assert normalize(images, stage_of("precision=64-true")).dtype == torch.float64


def test_crf_rnn_takes_the_std_of_the_recipe(street: str) -> None:
    recipe = small(street, "model.id=crf_rnn.vgg16", "preprocessing.std=[1, 2, 3]")
    model = build_model(recipe, recipe.stages[0], open_dataset(f"{street}?split=train"))
    assert model.std == (1, 2, 3)


def folded(recipe: Recipe, data: SegmentationDataset) -> SegmentationModel:
    """A network of a recipe whose normalization only adds biases, as converters write it."""
    torch.manual_seed(0)
    model = build_model(recipe, recipe.stages[0], data)
    for layer in model.modules():
        if isinstance(layer, BatchNorm2d):
            layer.running_var.fill_(1 - layer.eps)
            torch.nn.init.uniform_(layer.bias, -0.5, 0.5)
    return model


def test_folded_batch_norm_is_unfolded_before_it_is_trained(street: str, tmp_path: Path) -> None:
    """A converted network, whose normalization only adds biases, computes the same after one tiny step."""
    train = pytest.importorskip("atrous.training", reason="needs the extra 'train'").train
    model = folded(small(street), open_dataset(f"{street}?split=train"))
    file = save(model, tmp_path / "converted.safetensors")
    messages: list[str] = []
    options = (f"weights={file}", "steps=1", "optimizer.lr=1e-12", "batch_norm_momentum=1e-6")
    result = train(small(street, *options), tmp_path / "run", on_message=messages.append)
    assert any("have statistics of training images now" in m for m in messages)
    image = torch.randn(1, 3, 65, 65)
    with torch.no_grad():
        expected = model.eval()(image)
        assert (load(result.last)(image) - expected).abs().max() < 1e-3 * expected.abs().max()
    frozen = train(small(street, *options, "batch_norm=frozen"), tmp_path / "frozen")
    assert not load(frozen.last).backbone.state_dict()["features.0.1.running_mean"].any()


@pytest.mark.parametrize("precision", ["32-true", "64-true"])
def test_folded_batch_norm_is_unfolded_on_images_of_different_sizes(precision: str, tmp_path: Path) -> None:
    data = open_dataset(f"camvid:{write_camvid(tmp_path / 'camvid')}?split=train")
    pixels, labels = draw_pair(7, len(data.classes), 33, 47)
    write_pair(data.items[0].image, data.items[0].mask, pixels, labels)
    recipe = small("camvid:nowhere", "transforms=[]", "batch=1", f"precision={precision}")
    model = folded(recipe, data)
    prepare_model(model, recipe.stages[0])
    count = len(folded_batch_norms(model))
    assert count > 50
    message = restore_batch_norm(model, recipe.stages[0], data, seed=0)
    assert message.startswith(f"{count} layers of batch normalization")
    assert not folded_batch_norms(model)
