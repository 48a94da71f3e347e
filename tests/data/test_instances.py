"""U-Net's weight map against equation 2 by brute force, masks that number objects, and both through training."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from atrous import AtrousError
from atrous.data import open_dataset
from atrous.data.instances import border_weights, separate
from atrous.data.loading import AugmentedDataset, BorderWeights, collate
from atrous.data.transforms import Compose, RandomElastic, RandomFlip, RandomRotation
from atrous.layers.losses import CrossEntropy, Dice, WeightedSum
from tests.data_fixtures import Write, photograph


def cells() -> np.ndarray:
    """Five cells: two that touch, one a few pixels from them, one far away, one of a single pixel."""
    instances = np.zeros((60, 80), np.int32)
    instances[5:20, 5:20] = 1
    instances[5:20, 20:30] = 2
    instances[24:40, 8:28] = 300
    instances[45:55, 60:75] = 4
    instances[30, 40] = 7
    return instances


@pytest.mark.parametrize(("w0", "sigma"), [(10.0, 5.0), (3.0, 2.0)])
def test_equation_2_by_brute_force(w0: float, sigma: float) -> None:
    instances = separate(cells())
    points = np.argwhere(instances >= 0)
    distances = []
    for number in np.unique(instances[instances > 0]):
        own = np.argwhere(instances == number)
        distances.append(np.sqrt(((points[:, None] - own[None]) ** 2).sum(-1).min(1)).reshape(instances.shape))
    d1, d2 = np.sort(distances, 0)[:2]
    expected = np.where(instances > 0, 0, w0 * np.exp(-((d1 + d2) ** 2) / (2 * sigma**2)))
    np.testing.assert_allclose(border_weights(instances, w0, sigma), expected, rtol=1e-4, atol=1e-6 * w0)
    assert expected.max() > 0.3 * w0
    assert all((border_weights(instances) == border_weights(instances)).all() for _ in range(5))  # to the last bit


def test_fewer_than_two_cells_have_no_border_between_them() -> None:
    one = np.zeros((20, 20), np.int32)
    assert not border_weights(one).any()
    one[5:9, 5:9] = 3
    assert not border_weights(one).any()


def test_touching_cells_are_separated() -> None:
    separated = separate(cells())
    assert (separated[5:20, 19:21] == 0).all()
    assert (separated[5:20, 18] == 1).all()
    assert (separated[5:20, 21] == 2).all()
    assert ((separated == 300) == (cells() == 300)).all()
    diagonal = separate(np.array([[1, 0, 0], [0, 2, 2], [0, 2, 2]], np.int32))
    assert diagonal.tolist() == [[0, 0, 0], [0, 0, 2], [0, 2, 2]]


@pytest.fixture
def folder(tmp_path: Path, write: Write) -> Path:
    root = tmp_path / "cells"
    write(root / "images/a.png", photograph(0, (60, 80)))
    write(root / "masks/a.png", cells().astype(np.uint16))
    write(root / "classes.yaml", "classes: [background, cell]\ncoding: instances\n")
    return root


def test_masks_that_number_the_objects(folder: Path) -> None:
    dataset = open_dataset(folder)
    assert dataset.instances is not None
    np.testing.assert_array_equal(dataset.instances(dataset.items[0]), separate(cells()))
    np.testing.assert_array_equal(dataset[0].labels, separate(cells()) > 0)
    (folder / "classes.yaml").write_text("classes: [background, cell]\ncoding: instances\nignore: [300]\n")
    ignoring = open_dataset(folder)
    assert ignoring.instances is not None
    assert ((ignoring[0].labels == 255) == (cells() == 300)).all()
    assert 300 not in ignoring.instances(ignoring.items[0])
    (folder / "classes.yaml").write_text("classes: [a, b, c]\ncoding: instances\n")
    with pytest.raises(AtrousError, match="needs two classes"):
        open_dataset(folder)


def test_an_object_beside_ignored_pixels_keeps_its_border(folder: Path, write: Write) -> None:
    mask = np.zeros((60, 80), np.uint8)
    mask[10:30, 10:30], mask[10:30, 30:34] = 1, 255
    write(folder / "masks/a.png", mask)
    (folder / "classes.yaml").write_text("classes: [background, cell]\ncoding: instances\nignore: [255]\n")
    dataset = open_dataset(folder)
    np.testing.assert_array_equal(dataset[0].labels, mask)
    assert dataset.instances is not None
    np.testing.assert_array_equal(dataset.instances(dataset.items[0]), np.where(mask == 255, 0, mask))


def test_weights_are_transformed_as_the_labels_are(folder: Path) -> None:
    dataset = open_dataset(folder)
    assert dataset.instances is not None
    weight_map = BorderWeights(dataset.instances)
    transform = Compose([RandomElastic(sigma=2), RandomRotation(15, probability=1.0), RandomFlip()])
    augmented = AugmentedDataset(dataset, transform, seed=3, weight_map=weight_map)
    full = weight_map(dataset.items[0])
    for epoch in range(4):
        sample = augmented[epoch, 0]
        assert sample.weights is not None
        assert sample.weights.shape == sample.labels.shape
        assert not sample.weights[sample.labels != 0].any()  # of objects and ignored pixels
        assert 0.5 * full.sum() < sample.weights.sum() < 1.5 * full.sum()
        assert set(np.unique(sample.weights)) <= {0, *np.unique(full)}
    batch = collate([augmented[0, 0], augmented[1, 0]])
    assert batch.weights is not None
    assert batch.weights.shape == batch.labels.shape
    assert collate([dataset[0]]).weights is None


def test_weights_are_added_to_class_weights_in_cross_entropy_alone() -> None:
    logits, labels = torch.randn(1, 2, 4, 5), torch.randint(0, 2, (1, 4, 5))
    labels[0, 0] = 255
    border = torch.rand(1, 4, 5)
    plain = CrossEntropy().per_pixel(logits, labels)
    expected = (plain * (torch.tensor([0.5, 2.0])[labels % 2] + border)).sum() / 15
    loss = CrossEntropy(class_weights=(0.5, 2.0))
    torch.testing.assert_close(loss(logits, labels, weights=border), expected)
    total = WeightedSum([(loss, 1.0), (Dice(), 2.0)])(logits, labels, weights=border)
    torch.testing.assert_close(total, expected + 2 * Dice()(logits, labels))
