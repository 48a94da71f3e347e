"""Vertex keys: unique near the features, and a constant step between neighbors."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from atrous.crf.lattice_geometry import embedding_scale, key_steps, key_strides


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
