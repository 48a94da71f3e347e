"""Validation: every image once over all processes, and the mode of each module afterwards."""

from __future__ import annotations

import pytest
import torch

from atrous import AtrousError, Segmenter
from atrous.data import open_dataset
from atrous.training.stage import build_model
from atrous.training.validate import validate
from tests.training.conftest import small


def test_every_image_is_validated_once(street: str) -> None:
    recipe = small(street)
    data = open_dataset(f"{street}?split=val")
    model = build_model(recipe, recipe.stages[0], data)
    assert model.card is not None
    alone = validate(model, model.card, data, recipe.stages[0]).matrix
    parts = [validate(model, model.card, data, recipe.stages[0], rank=rank, processes=2).matrix for rank in range(2)]
    assert parts[0] + parts[1] == alone
    assert alone.counts.sum() == sum((data.labels(index) != 255).sum() for index in range(3))


def test_test_time_augmentation(street: str) -> None:
    recipe = small(street, "evaluate={tta: pspnet_single, max_images: 2}")
    data = open_dataset(f"{street}?split=val")
    model = build_model(recipe, recipe.stages[0], data)
    assert model.card is not None
    result = validate(model, model.card, data, recipe.stages[0])
    segmenter = Segmenter(model, device="cpu", tta="pspnet_single")
    expected = [segmenter(data[index].image).labels for index in range(2)]
    assert all((a == b).all() for a, b in zip(result.predictions, expected, strict=True))
    plain = validate(model, model.card, data, small(street, "evaluate.max_images=2").stages[0])
    assert result.matrix != plain.matrix
    with pytest.raises(AtrousError, match="Did you mean 'pspnet_single'"):
        small(street, "evaluate.tta=pspnet_singl")


def test_modes_and_output_stride_are_restored(street: str) -> None:
    recipe = small(street, "evaluate={output_stride: 8, max_images: 1, samples: 1}")
    data = open_dataset(f"{street}?split=val")
    model = build_model(recipe, recipe.stages[0], data)
    model.freeze("backbone")
    modes = {name: module.training for name, module in model.named_modules()}
    assert model.card is not None
    result = validate(model, model.card, data, recipe.stages[0])
    assert {name: module.training for name, module in model.named_modules()} == modes
    assert model.output_stride == 16
    assert len(result.samples) == len(result.predictions) == 1


def test_classes_that_are_never_predicted(street: str) -> None:
    recipe = small(street)
    data = open_dataset(f"{street}?split=val")
    model = build_model(recipe, recipe.stages[0], data)
    torch.nn.init.zeros_(model.classifier.weight)
    torch.nn.init.constant_(model.classifier.bias, 0)
    model.classifier.bias.data[3] = 1
    assert model.card is not None
    missing = validate(model, model.card, data, recipe.stages[0]).missing_classes(data.classes)
    assert data.classes[3] not in missing
    assert missing
