"""Vertex keys: unique near the features, and a constant step between neighbors."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from atrous.crf.lattice_geometry import blur_rounds, embedding_scale, group_strides, key_steps, key_strides


@pytest.mark.parametrize("d", [1, 2, 3, 5])
def test_keys_are_unique(d: int) -> None:
    """Every vertex within reach of the features, neighbors included, has a key of its own."""
    low, high = np.full(d, -1.0), np.full(d, 1.5)
    strides = key_strides(low, high)
    scale = embedding_scale(d)
    coordinates = [
        tuple((d + 1) * c + r for c in cells)
        for r in range(d + 1)
        for cells in product(range(-2, 3) if d < 5 else range(-1, 2), repeat=d)
    ]
    keys = {int(np.dot(coordinate, strides[:d])) for coordinate in coordinates}
    assert len(keys) == len(coordinates)
    assert scale.dtype == np.float32


def test_steps_lead_to_neighbors() -> None:
    strides = key_strides(np.zeros(3), np.full(3, 9.0))
    steps = key_steps(strides)
    vertex = np.array([4, 0, -4, 0])
    for axis in range(4):
        neighbor = vertex + 1 - 4 * np.eye(4, dtype=int)[axis]
        assert (neighbor * strides).sum() == (vertex * strides).sum() + steps[axis]


@pytest.mark.parametrize("d", [1, 2, 3, 4, 5, 6, 9])
def test_groups_stay_the_same_in_their_round(d: int) -> None:
    """Every axis is in one round, in order, and a step along it does not change the round's group."""
    rounds, strides = blur_rounds(d), group_strides(d)
    assert [axis for axes in rounds for axis in axes] == list(range(d + 1))
    for axes, own in zip(rounds, strides, strict=True):
        steps = own.sum() - (d + 1) * own
        assert (steps[axes] == 0).all()
        outside = [axis for axis in range(d + 1) if axis not in axes]
        assert len(outside) < 2 or (steps[outside] != 0).all()
