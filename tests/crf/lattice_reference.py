"""The permutohedral lattice as in the paper, slow and obvious, for the tests of both backends."""

from __future__ import annotations

import numpy as np

from atrous.crf.lattice_geometry import embedding_scale, slice_factor


def filter_as_in_the_paper(features: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Adams et al. with coordinate tuples and a dictionary, in float64; one point, one corner, one axis at a time."""
    d = features.shape[1]
    corners, weights = [], []
    for feature in features.astype(np.float64) * embedding_scale(d):
        y = np.array([feature[i:].sum() - i * feature[i - 1] if i else feature.sum() for i in range(d + 1)])
        corner = np.rint(y / (d + 1)) * (d + 1)
        rank = np.argsort(np.argsort(-(y - corner), kind="stable"))
        rank = rank + int(corner.sum()) // (d + 1)
        corner = corner + (d + 1) * ((rank < 0).astype(int) - (rank > d).astype(int))
        rank = rank % (d + 1)
        falling = np.sort((y - corner) / (d + 1))[::-1]
        share = [1 - falling[0] + falling[d], *(falling[d - r] - falling[d - r + 1] for r in range(1, d + 1))]
        corners.append([tuple((corner + np.where(rank <= d - r, r, r - d - 1)).astype(int)) for r in range(d + 1)])
        weights.append(share)
    rows: dict[tuple[int, ...], np.ndarray] = {}
    for point, (places, shares) in enumerate(zip(corners, weights, strict=True)):
        for place, share in zip(places, shares, strict=True):
            rows[place] = rows.get(place, 0) + share * values[point]
    for axis in range(d + 1):
        step = np.ones(d + 1, int) - (d + 1) * np.eye(d + 1, dtype=int)[axis]
        nothing = np.zeros(values.shape[1])
        rows = {
            place: row + 0.5 * (rows.get(tuple(place - step), nothing) + rows.get(tuple(place + step), nothing))
            for place, row in rows.items()
        }
    sliced = [
        sum(s * rows[p] for p, s in zip(places, shares, strict=True))
        for places, shares in zip(corners, weights, strict=True)
    ]
    return np.stack(sliced) * slice_factor(d)


def points_and_values(d: int, n: int, k: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.uniform(-3, 3, (n, d)).astype(np.float32), rng.normal(size=(n, k)).astype(np.float32)
