"""The lattice in torch: against the paper, its transpose, its gradient, batches, and errors."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from atrous.crf import TorchLattice, permutohedral_filter
from atrous.errors import AtrousError
from tests.crf.lattice_reference import filter_as_in_the_paper, points_and_values


@pytest.mark.parametrize(("d", "n", "k"), [(1, 40, 3), (2, 60, 1), (3, 50, 8), (5, 60, 9), (8, 20, 2)])
def test_filter_as_in_the_paper(d: int, n: int, k: int) -> None:
    features, values = points_and_values(d, n, k)
    lattice = TorchLattice(torch.from_numpy(features)[None])
    filtered = permutohedral_filter(torch.from_numpy(values)[None], lattice)[0]
    np.testing.assert_allclose(filtered, filter_as_in_the_paper(features, values), atol=2e-4)


@settings(max_examples=20, deadline=None)
@given(d=st.integers(1, 6), n=st.integers(1, 200), seed=st.integers(0, 99))
def test_adjoint(d: int, n: int, seed: int) -> None:
    """<a, K b> = <K^T a, b>, where K^T blurs in reverse: exact in float64."""
    features, b = points_and_values(d, n, 3, seed)
    a = np.random.default_rng(seed + 1).normal(size=b.shape)
    lattice = TorchLattice(torch.from_numpy(features)[None])
    a64, b64 = torch.from_numpy(a)[None], torch.from_numpy(b).double()[None]
    left, right = (a64 * lattice.filter(b64)).sum(), (lattice.filter(a64, reverse=True) * b64).sum()
    assert abs(float(left - right)) <= 1e-9 * max(1.0, abs(float(left)))


def test_blur_order_matters() -> None:
    """Where vertices are missing the axes do not commute: a gradient with the same order would be wrong."""
    features, values = points_and_values(4, 60, 2)
    lattice = TorchLattice(torch.from_numpy(features)[None])
    tensor = torch.from_numpy(values)[None]
    assert (lattice.filter(tensor) - lattice.filter(tensor, reverse=True)).abs().max() > 1e-3


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


def test_bad_features() -> None:
    with pytest.raises(AtrousError, match="NaN or infinity"):
        TorchLattice(torch.full((1, 3, 2), torch.inf))
    with pytest.raises(AtrousError, match="batch, points, d"):
        TorchLattice(torch.zeros(3, 2))
