"""The filter: against a loop over a dictionary, its adjoint, its gradient, and what a Gaussian filter has to do."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from atrous.crf import Lattice, Normalization, TorchLattice, permutohedral_filter
from atrous.crf.numba_backend import threads
from atrous.crf.numba_backend.lattice import embedding_scale, key_steps, key_strides, slice_factor
from atrous.errors import AtrousError


def by_the_book(features: np.ndarray, values: np.ndarray) -> np.ndarray:
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


@pytest.mark.parametrize(("d", "n", "k"), [(1, 40, 3), (2, 60, 1), (3, 50, 8), (5, 60, 9), (8, 20, 2)])
def test_by_the_book(d: int, n: int, k: int) -> None:
    features, values = points_and_values(d, n, k)
    expected = by_the_book(features, values)
    np.testing.assert_allclose(Lattice.build(features).filter(values), expected, atol=2e-4)
    tensors = torch.from_numpy(features)[None], torch.from_numpy(values)[None]
    np.testing.assert_allclose(permutohedral_filter(tensors[1], TorchLattice(tensors[0]))[0], expected, atol=2e-4)


@settings(max_examples=30, deadline=None)
@given(d=st.integers(1, 7), n=st.sampled_from([1, 2, 9, 300, 9000]), k=st.integers(1, 18), seed=st.integers(0, 99))
def test_numba_is_torch(d: int, n: int, k: int, seed: int) -> None:
    features, values = points_and_values(d, n, k, seed)
    lattice, reference = Lattice.build(features), TorchLattice(torch.from_numpy(features)[None])
    assert lattice.vertices == reference.rows
    for reverse in (False, True):
        expected = reference.apply(torch.from_numpy(values)[None], reverse)[0].numpy()
        np.testing.assert_allclose(
            lattice.filter(values, reverse=reverse), expected, atol=1e-3 * np.abs(expected).max()
        )


@settings(max_examples=20, deadline=None)
@given(d=st.integers(1, 6), n=st.integers(1, 200), seed=st.integers(0, 99))
def test_adjoint(d: int, n: int, seed: int) -> None:
    """<a, K b> = <K^T a, b>, where K^T blurs in reverse: exact in float64."""
    features, b = points_and_values(d, n, 3, seed)
    a = np.random.default_rng(seed + 1).normal(size=b.shape)
    lattice = TorchLattice(torch.from_numpy(features)[None])
    a64, b64 = torch.from_numpy(a)[None], torch.from_numpy(b).double()[None]
    left, right = (a64 * lattice.apply(b64, False)).sum(), (lattice.apply(a64, True) * b64).sum()
    assert abs(float(left - right)) <= 1e-9 * max(1.0, abs(float(left)))


def test_blur_order_matters() -> None:
    """Where vertices are missing the axes do not commute: a gradient with the same order would be wrong."""
    features, values = points_and_values(4, 60, 2)
    lattice = TorchLattice(torch.from_numpy(features)[None])
    tensor = torch.from_numpy(values)[None]
    assert (lattice.apply(tensor, False) - lattice.apply(tensor, True)).abs().max() > 1e-3


def test_gradient() -> None:
    rng = torch.Generator().manual_seed(0)
    lattice = TorchLattice(torch.rand(2, 7, 3, generator=rng) * 3)
    values = torch.rand(2, 7, 2, generator=rng, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda v: permutohedral_filter(v, lattice), values)
    assert torch.autograd.gradgradcheck(lambda v: permutohedral_filter(v, lattice), values)


def test_a_batch_is_its_images() -> None:
    features = torch.rand(3, 40, 4, generator=torch.Generator().manual_seed(1)) * 4
    values = torch.rand(3, 40, 5, generator=torch.Generator().manual_seed(2))
    together = permutohedral_filter(values, TorchLattice(features))
    for i in range(3):
        alone = permutohedral_filter(values[i : i + 1], TorchLattice(features[i : i + 1]))
        torch.testing.assert_close(together[i : i + 1], alone)


@pytest.mark.parametrize("d", [1, 2, 5])
def test_approximates_a_gaussian(d: int) -> None:
    """Dense points: the normalized filter of a smooth function is near the exact Gaussian average."""
    rng = np.random.default_rng(0)
    features = rng.uniform(0, 4 if d < 5 else 2, (1500, d)).astype(np.float32)
    values = np.sin(features.sum(1, keepdims=True)).astype(np.float32)
    lattice = Lattice.build(features)
    found = lattice.filter(values) / lattice.filter(np.ones_like(values))
    kernel = np.exp(-0.5 * ((features[:, None] - features[None]) ** 2).sum(2))
    expected = kernel @ values / kernel.sum(1, keepdims=True)
    assert np.abs(found - expected).mean() < 0.05
    assert np.corrcoef(found.ravel(), expected.ravel())[0, 1] > 0.97


def test_bands_do_not_change_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four threads, more than there may be cores: the same vertices and, up to rounding, values as with one."""
    features, values = points_and_values(3, 20000, 4)
    with threads.limited_to(1):
        one = Lattice.build(features)
        expected = one.filter(values)
    assert len(one.copies) == 0
    monkeypatch.setattr(threads, "_CORES", 4)
    several = Lattice.build(features)
    assert len(several.bounds) == 5
    assert len(several.copies) > 0
    assert one.vertices == several.vertices
    np.testing.assert_allclose(several.filter(values), expected, rtol=1e-4, atol=1e-4)


def test_from_several_python_threads() -> None:
    features, values = points_and_values(3, 20000, 4)
    expected = Lattice.build(features).filter(values)
    with ThreadPoolExecutor(3) as pool:
        results = list(pool.map(lambda _: Lattice.build(features).filter(values), range(6)))
    for found in results:
        np.testing.assert_array_equal(found, expected)


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


def test_many_dimensions_hash() -> None:
    """20 wide features do not pack into 62 bits; the hashed keys give the same as the book."""
    rng = np.random.default_rng(0)
    features = (rng.normal(size=(30, 20)) * 500).astype(np.float32)
    features[15:] = features[:15] + rng.normal(size=(15, 20)).astype(np.float32) * 0.05
    assert abs(key_strides(features.min(0), features.max(0))[0]) > 1
    values = rng.normal(size=(30, 2)).astype(np.float32)
    reference = TorchLattice(torch.from_numpy(features)[None])
    found = Lattice.build(features).filter(values)
    np.testing.assert_allclose(found, reference.apply(torch.from_numpy(values)[None], False)[0], rtol=1e-3, atol=1e-5)


def test_normalizations() -> None:
    sums = np.array([2.0, 8.0])
    assert [tuple(map(tuple, np.round(kind.factors(sums), 6))) for kind in Normalization] == [
        ((1, 1), (1, 1)),
        ((0.5, 0.125), (1, 1)),
        ((1, 1), (0.5, 0.125)),
        ((0.707107, 0.353553),) * 2,
    ]


@pytest.mark.parametrize(
    ("features", "message"),
    [
        (np.zeros((0, 2)), "at least one of each"),
        (np.zeros(5), "shape \\(points, d\\)"),
        (np.array([[np.nan, 0.0]]), "NaN or infinity"),
        (np.array([[0.0, np.inf], [0.0, 1.0]]), "NaN or infinity"),
    ],
)
def test_bad_features(features: np.ndarray, message: str) -> None:
    with pytest.raises(AtrousError, match=message):
        Lattice.build(features)


def test_bad_values() -> None:
    lattice = Lattice.build(np.zeros((4, 2)))
    with pytest.raises(AtrousError, match="values must have shape \\(4, channels\\)"):
        lattice.filter(np.zeros((5, 1)))
    with pytest.raises(AtrousError, match="same number of points"):
        Lattice.build(np.zeros((4, 2)), np.zeros((5, 2)))
    with pytest.raises(AtrousError, match="NaN or infinity"):
        TorchLattice(torch.full((1, 3, 2), torch.inf))
    with pytest.raises(AtrousError, match="batch, points, d"):
        TorchLattice(torch.zeros(3, 2))
