"""Pairwise kernels: label compatibility, normalization, and errors in their parameters."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from atrous.crf import (
    Bilateral,
    CRFPreset,
    Features,
    Gaussian,
    MatrixCompatibility,
    Normalization,
    PottsCompatibility,
    dense_crf,
)
from atrous.errors import AtrousError
from tests.crf.crf_samples import random_image, random_probabilities


def test_normalizations() -> None:
    sums = np.array([2.0, 8.0])
    assert [tuple(map(tuple, np.round(kind.factors(sums), 6))) for kind in Normalization] == [
        ((1, 1), (1, 1)),
        ((0.5, 0.125), (1, 1)),
        ((1, 1), (0.5, 0.125)),
        ((0.707107, 0.353553),) * 2,
    ]


class TestCompatibility:
    image, p = random_image(12, 15), random_probabilities(10, 12, 15)

    def refine(self, backend: Any, **kernel: Any) -> np.ndarray:
        crf = CRFPreset(bilateral=Bilateral(sigma_alpha=6, sigma_beta=20, **kernel))
        return dense_crf(self.image, self.p, crf, backend=backend)

    @pytest.mark.parametrize("backend", ["numba", "torch"])
    def test_potts_in_three_ways(self, backend: Any) -> None:
        potts = self.refine(backend, w=3)
        np.testing.assert_allclose(self.refine(backend, w=[3.0] * 10), potts, atol=1e-5)
        np.testing.assert_allclose(self.refine(backend, w=3, compatibility=-np.eye(10)), potts, atol=1e-5)

    def test_potts_is_the_default(self) -> None:
        assert Gaussian().compatibility == Bilateral().compatibility == PottsCompatibility()
        assert Gaussian(2.5).scaled_compatibility(3) == 2.5
        np.testing.assert_array_equal(Gaussian([1.0, 2.0]).scaled_compatibility(2), [1, 2])

    def test_a_matrix_is_negated_with_the_sender_first(self) -> None:
        matrix = np.array([[0.0, 1.0], [2.0, 3.0]])
        for compatibility in (matrix, matrix.tolist(), MatrixCompatibility(matrix)):
            scaled = Gaussian([10.0, 100.0], compatibility=compatibility).scaled_compatibility(2)
            np.testing.assert_array_equal(scaled, [[0, -20], [-100, -300]])

    @pytest.mark.parametrize("normalization", list(Normalization))
    def test_penalizing_unequal_labels_is_rewarding_equal_ones(self, normalization: Normalization) -> None:
        """mu = 1 - I, the Potts model, and mu = -I differ by w K 1, which is the same for every label."""
        options = {"w": 3 if normalization == Normalization.AFTER else 0.2, "normalization": normalization}
        penalized = self.refine("numba", compatibility=1 - np.eye(10), **options)
        np.testing.assert_allclose(penalized, self.refine("numba", **options), atol=1e-4)
        np.testing.assert_allclose(penalized, self.refine("torch", compatibility=1 - np.eye(10), **options), atol=2e-4)

    def test_matrix_has_receivers_in_rows(self) -> None:
        mu = np.zeros((10, 10))
        mu[2, 7] = -5  # class 2 is drawn to where class 7 is
        pulled = self.refine("numba", w=1, compatibility=mu)
        assert pulled[2].mean() > 1.2 * self.p[2].mean()
        assert pulled[7].mean() < self.p[7].mean()
        np.testing.assert_allclose(pulled, self.refine("torch", w=1, compatibility=mu), atol=2e-4)

    @pytest.mark.parametrize("kind", list(Normalization))
    def test_normalizations_in_torch(self, kind: Normalization) -> None:
        options = {"w": 0.2, "normalization": kind}
        np.testing.assert_allclose(self.refine("numba", **options), self.refine("torch", **options), atol=2e-4)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Gaussian(sigma_gamma=0), "sigma_gamma must be one positive number or 2"),
        (lambda: Bilateral(sigma_beta=(1, 2)), "sigma_beta must be one positive number or 3"),
        (lambda: Bilateral(sigma_alpha=float("nan")), "sigma_alpha must be"),
        (lambda: Gaussian(w=float("inf")), "w must be one finite number"),
        (lambda: Gaussian(compatibility=np.zeros((2, 3))), r"found shape \(2, 3\)"),
        (lambda: Features(np.zeros((2, 5)), compatibility=np.full((2, 2), np.nan)), "must be a finite"),
        (lambda: Gaussian(compatibility=None), r"found shape \(\)"),
    ],
)
def test_bad_parameters(build: Any, message: str) -> None:
    with pytest.raises(AtrousError, match=message):
        build()
