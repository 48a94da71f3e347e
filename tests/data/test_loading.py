"""Epochs, workers, hard images, batches."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from atrous import AtrousError
from atrous.data import open_dataset
from atrous.data.loading import AugmentedDataset, SampleLoader, collate, duplicate_hard_images
from atrous.data.transforms import ColorJitter, Compose, RandomCrop, RandomFlip, RandomScale

TRANSFORM = Compose([RandomScale(), RandomCrop(16, 20), RandomFlip(), ColorJitter()])


def batches(data: AugmentedDataset, **options: object) -> list[torch.Tensor]:
    return [batch.images for batch in DataLoader(data, batch_size=2, collate_fn=collate, **options)]


def test_samples_do_not_depend_on_workers(own: Path) -> None:
    data = AugmentedDataset(open_dataset(own), TRANSFORM, seed=4)
    alone = batches(data)
    assert alone[0].shape == (2, 3, 16, 20)
    assert alone[0].dtype == torch.uint8
    for ours, theirs in zip(alone, batches(data, num_workers=2), strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_set_epoch_reaches_persistent_workers(own: Path, start: str) -> None:
    data = AugmentedDataset(open_dataset(own), TRANSFORM)
    loader = DataLoader(
        data,
        batch_size=4,
        collate_fn=collate,
        num_workers=1,
        persistent_workers=True,
        multiprocessing_context=start,
    )
    epochs = []
    for epoch in (0, 1, 0):
        data.set_epoch(epoch)
        epochs.append(next(iter(loader)).images)
    assert (epochs[0] != epochs[1]).any()
    assert (epochs[0] == epochs[2]).all()


def test_a_key_of_epoch_and_index(own: Path) -> None:
    data = AugmentedDataset(open_dataset(own), TRANSFORM, seed=4)
    data.set_epoch(3)
    expected = data[1]
    data.set_epoch(0)
    np.testing.assert_array_equal(data[3, 1].image, expected.image)
    np.testing.assert_array_equal(data[3, 1].labels, expected.labels)
    with pytest.raises(IndexError):
        data[0, 4]


def test_seeds_and_indices_differ(own: Path) -> None:
    dataset = open_dataset(own).select([0, 0])
    one, other = AugmentedDataset(dataset, TRANSFORM, seed=0), AugmentedDataset(dataset, TRANSFORM, seed=1)
    assert (one[0].image != one[1].image).any()
    assert (one[0].image != other[0].image).any()
    np.testing.assert_array_equal(one[-1].image, one[1].image)
    assert len(list(one)) == 2


def test_hard_images_are_duplicated(own: Path) -> None:
    dataset = open_dataset(f"{own}?split=all")
    assert duplicate_hard_images(dataset, ["tree"]).names == (*dataset.names, "2", "5")
    assert duplicate_hard_images(dataset, ["tree"], times=3).names == (*dataset.names, "2", "5", "2", "5")
    with pytest.raises(AtrousError, match=r"no class 'tre'\. Did you mean 'tree'"):
        duplicate_hard_images(dataset, ["tre"])


def test_v3_on_voc(shared_data: Path) -> None:
    dataset = open_dataset(f"voc2012:{shared_data}/voc2012?split=val")
    again = duplicate_hard_images(dataset)
    hard = set(again.names[len(dataset) :])
    assert 0 < len(hard) < len(dataset)
    for index, name in enumerate(dataset.names):
        assert (name in hard) == bool(np.isin(dataset.labels(index), [2, 9, 11, 16, 18]).any())


def test_batches_need_one_size(own: Path) -> None:
    samples = list(open_dataset(own))
    batch = collate(samples)
    assert batch.labels.dtype == torch.int64
    assert batch.names == ("0", "1", "2", "3")
    assert set(batch.labels.unique().tolist()) == {0, 1, 2, 255}
    with pytest.raises(AtrousError, match="have different sizes"):
        collate([samples[0], AugmentedDataset(open_dataset(own), RandomCrop(9, 9))[1]])


@pytest.mark.parametrize("workers", [0, 1])
def test_errors_of_workers_are_one_line(own: Path, workers: int) -> None:
    data = open_dataset(own)
    data.items[1].image.write_bytes(b"no image")
    loader = SampleLoader(data, num_workers=workers, batch_size=None)
    with pytest.raises(AtrousError) as raised:
        list(loader)
    assert str(data.items[1].image) in str(raised.value)
    assert "Traceback" not in str(raised.value)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_batch_of_samples_of_two_sizes(own: Path, workers: int) -> None:
    data = AugmentedDataset(open_dataset(own), RandomScale(0.5, 2.0))
    with pytest.raises(AtrousError, match=r"^The samples of a batch have different sizes: "):
        list(SampleLoader(data, collate_fn=collate, num_workers=workers, batch_size=2))
