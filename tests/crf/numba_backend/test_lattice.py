"""The lattice on the CPU: against the paper, against torch, in parallel, and errors."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from atrous.crf import Lattice, TorchLattice
from atrous.crf.lattice_geometry import key_strides
from atrous.crf.numba_backend import threads
from atrous.errors import AtrousError
from tests.crf.lattice_reference import filter_as_in_the_paper, points_and_values


@pytest.mark.parametrize(("d", "n", "k"), [(1, 40, 3), (2, 60, 1), (3, 50, 8), (5, 60, 9), (8, 20, 2)])
def test_filter_as_in_the_paper(d: int, n: int, k: int) -> None:
    features, values = points_and_values(d, n, k)
    expected = filter_as_in_the_paper(features, values)
    np.testing.assert_allclose(Lattice.build(features).filter(values), expected, atol=2e-4)


@settings(max_examples=30, deadline=None)
@given(
    d=st.integers(1, 7),
    n=st.sampled_from([1, 2, 9, 300, 9000]),
    k=st.sampled_from([1, 7, 9, 18, 31, 41]),
    seed=st.integers(0, 99),
)
def test_numba_is_torch(d: int, n: int, k: int, seed: int) -> None:
    features, values = points_and_values(d, n, k, seed)
    lattice, reference = Lattice.build(features), TorchLattice(torch.from_numpy(features)[None])
    assert lattice.num_vertices == reference.num_vertices
    for reverse in (False, True):
        expected = reference.filter(torch.from_numpy(values)[None], reverse=reverse)[0].numpy()
        np.testing.assert_allclose(
            lattice.filter(values, reverse=reverse), expected, atol=1e-3 * np.abs(expected).max()
        )


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
    with threads.limit_threads(1):
        one = Lattice.build(features)
        expected = one.filter(values)
    assert one.num_rows == one.num_vertices
    monkeypatch.setattr(threads, "_CORES", 4)
    several = Lattice.build(features)
    assert len(several.bounds) == 5
    assert several.num_rows > several.num_vertices
    assert one.num_vertices == several.num_vertices
    np.testing.assert_allclose(several.filter(values), expected, rtol=1e-4, atol=1e-4)


def test_from_several_python_threads() -> None:
    features, values = points_and_values(3, 20000, 4)
    expected = Lattice.build(features).filter(values)
    with ThreadPoolExecutor(3) as pool:
        results = list(pool.map(lambda _: Lattice.build(features).filter(values), range(6)))
    for found in results:
        np.testing.assert_array_equal(found, expected)


def test_many_dimensions_hash() -> None:
    """20 wide features do not pack into 62 bits; the hashed keys give the same values as torch."""
    rng = np.random.default_rng(0)
    features = (rng.normal(size=(30, 20)) * 500).astype(np.float32)
    features[15:] = features[:15] + rng.normal(size=(15, 20)).astype(np.float32) * 0.05
    assert abs(key_strides(features.min(0), features.max(0))[0]) > 1
    values = rng.normal(size=(30, 2)).astype(np.float32)
    reference = TorchLattice(torch.from_numpy(features)[None])
    found = Lattice.build(features).filter(values)
    np.testing.assert_allclose(found, reference.filter(torch.from_numpy(values)[None])[0], rtol=1e-3, atol=1e-5)


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
