"""Sampling that is a function of seed and step, and the training data."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from atrous import AtrousError
from atrous.data import open_dataset
from atrous.data.datasets import voc
from atrous.data.loading import duplicate_hard_images, join_datasets
from atrous.training.config import DataConfig
from atrous.training.loader import StepBatchSampler, open_training_data
from tests.training.conftest import write_camvid, write_sbd, write_voc


def test_every_image_occurs_once_per_epoch_on_any_number_of_processes() -> None:
    whole = list(StepBatchSampler(images=10, batch=4, steps=5))
    assert Counter(index for keys in whole for epoch, index in keys if epoch == 0) == Counter(range(10))
    assert Counter(index for keys in whole for epoch, index in keys if epoch == 1) == Counter(range(10))
    assert list(StepBatchSampler(images=10, batch=4, steps=5, start=3)) == whole[3:]
    parts = [list(StepBatchSampler(10, 4, 5, accumulate=2, rank=rank, processes=2)) for rank in range(2)]
    for step, keys in enumerate(whole):
        shared = [key for part in parts for micro_batch in part[2 * step : 2 * step + 2] for key in micro_batch]
        assert sorted(shared) == sorted(keys)
    assert [len(keys) for keys in StepBatchSampler(images=1, batch=3, steps=2)] == [3, 3]


def test_images_of_hard_classes_are_duplicated(tmp_path: Path) -> None:
    entry = DataConfig(train=(f"voc2012:{write_voc(tmp_path / 'voc')}?split=trainval",))
    plain = open_training_data(entry)
    hard = sum(bool(np.isin(plain.labels(i), [voc.CLASSES.index(n) for n in voc.HARD_CLASSES]).any()) for i in range(4))
    again = open_training_data(entry.model_copy(update={"duplicate_classes": voc.HARD_CLASSES, "duplicate_times": 3}))
    assert hard > 0
    assert len(again) == 4 + 2 * hard
    assert len(duplicate_hard_images(plain, voc.HARD_CLASSES)) == 4 + hard


def test_data_sets_join_by_their_classes(tmp_path: Path) -> None:
    pascal = f"voc2012:{write_voc(tmp_path / 'voc')}?split=train"
    both = open_training_data(DataConfig(train=(pascal, f"sbd:{write_sbd(tmp_path / 'sbd')}?split=train")))
    assert len(both) == 4
    assert (both.name, both.split) == ("voc2012+sbd", "train")
    splits = open_training_data(DataConfig(train=(pascal, pascal.replace("=train", "=val"))))
    assert (splits.name, splits.split) == ("voc2012", "train+val")
    assert all(both.labels(index).shape == (60, 80) for index in range(4))
    with pytest.raises(AtrousError, match="their classes or ignore indices differ"):
        join_datasets([open_dataset(pascal), open_dataset(f"camvid:{write_camvid(tmp_path / 'camvid')}")])


def test_a_batch_that_is_not_divisible() -> None:
    with pytest.raises(AtrousError, match="not divisible into 3 micro-batches for each of 1 processes"):
        StepBatchSampler(images=10, batch=4, steps=5, accumulate=3)
