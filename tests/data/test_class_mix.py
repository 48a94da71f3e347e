"""ClassMix: half of the classes of one sample on another."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from atrous import AtrousError
from atrous.data import open_dataset
from atrous.data.class_mix import mix_classes
from atrous.data.loading import AugmentedDataset
from atrous.data.transforms import RandomCrop


def sample(seed: int, classes: int, ignored: float, size: tuple[int, int] = (7, 9)) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, size).astype(np.uint8)
    labels[rng.random(size) < ignored] = 255
    return rng.integers(0, 256, (*size, 3), np.uint8), labels


@given(st.integers(0, 2**32), st.integers(1, 6), st.sampled_from([0.0, 0.3, 1.0]))
def test_whole_classes_are_pasted_and_ignored_pixels_are_not(seed: int, classes: int, ignored: float) -> None:
    target, source = sample(seed, 3, 0.2), sample(seed + 1, classes, ignored)
    image, labels = mix_classes(target, source, np.random.default_rng(seed))
    from_source = (image == source[0]).all(-1) & (labels == source[1])
    from_target = (image == target[0]).all(-1) & (labels == target[1])
    assert (from_source | from_target).all()
    present = set(source[1].flat) - {255}
    pasted = {label for label in present if from_source[source[1] == label].all()}
    untouched = {label for label in present if from_target[source[1] == label].all()}
    assert len(pasted - untouched) <= (len(present) + 1) // 2 <= len(pasted)
    assert from_target[source[1] == 255].all()
    assert pasted | untouched == present


def test_samples_of_other_sizes_are_refused() -> None:
    with pytest.raises(AtrousError, match="crop or resize"):
        mix_classes(sample(0, 2, 0), sample(1, 2, 0, (7, 8)), np.random.default_rng())


def test_a_data_set_is_mixed_with_a_probability_and_reproducibly(own: Path) -> None:
    dataset = open_dataset(own)
    plain, never, mixed, again = (
        AugmentedDataset(dataset, RandomCrop(16, 20), seed=3, **options)
        for options in ({}, {"class_mix": 0.0}, {"class_mix": 0.5}, {"class_mix": 0.5})
    )
    keys = [(epoch, index) for epoch in range(20) for index in range(len(dataset))]
    assert all(np.array_equal(plain[key].image, never[key].image) for key in keys)
    assert all(np.array_equal(mixed[key].image, again[key].image) for key in keys)
    changed = sum(not np.array_equal(plain[key].image, mixed[key].image) for key in keys)
    assert 0.25 * len(keys) < changed < 0.6 * len(keys)
