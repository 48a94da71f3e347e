"""`dense_crf`: against the sum over all pairs, at its limits, and its options."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from atrous.crf import (
    Bilateral,
    CRFPreset,
    DenseCRF,
    Features,
    Gaussian,
    MeanFieldOptions,
    dense_crf,
    probabilities_from_labels,
)
from tests.crf.crf_samples import random_image, random_probabilities

SMALL = CRFPreset(Gaussian(2, 1.5), Bilateral(3, 4, 25), iterations=5)


def all_pairs(image: np.ndarray, p: np.ndarray, crf: CRFPreset) -> np.ndarray:
    """Mean field with the exact N x N kernels, normalized symmetrically, self-term kept."""
    log_p = np.log(np.maximum(p.reshape(len(p), -1).astype(np.float64), 1e-5))
    kernels = []
    for term in crf.terms:
        features = term.features(image).astype(np.float64)
        kernel = np.exp(-0.5 * ((features[:, None] - features[None]) ** 2).sum(2))
        root = 1 / np.sqrt(kernel.sum(1))
        kernels.append(term.w * root[:, None] * kernel * root)
    q = np.exp(log_p)
    q /= q.sum(0)
    for _ in range(crf.iterations):
        logits = log_p + sum(q @ kernel for kernel in kernels)
        q = np.exp(logits - logits.max(0))
        q /= q.sum(0)
    return q.reshape(p.shape)


@pytest.mark.parametrize("backend", ["numba", "torch"])
@pytest.mark.parametrize("seed", range(4))
def test_all_pairs(seed: int, backend: Any) -> None:
    """The lattice is an approximation, with a piecewise-linear bump for a Gaussian: bound the difference."""
    image, p = random_image(16, 16, seed), random_probabilities(3, 16, 16, seed)
    exact = all_pairs(image, p, SMALL)
    found = dense_crf(image, p, SMALL, backend=backend)
    assert np.abs(found - exact).mean() < 0.06
    assert (found.argmax(0) == exact.argmax(0)).mean() > 0.93
    assert np.abs(p - exact).mean() > 2 * np.abs(found - exact).mean()  # and it is far nearer than doing nothing


@pytest.mark.parametrize("backend", ["numba", "torch"])
def test_no_weight_gives_back_the_unaries(backend: Any) -> None:
    image, p = random_image(9, 13), random_probabilities(10, 9, 13)
    found = dense_crf(image, p, CRFPreset(Gaussian(0, 3), Bilateral(0, 9, 9)), backend=backend)
    np.testing.assert_allclose(found, p, atol=1e-4)
    energies = np.random.default_rng(0).normal(0, 9, p.shape)
    powers = np.exp(-energies)
    none = dense_crf(image, energies=energies, crf=CRFPreset(), backend=backend)
    np.testing.assert_allclose(none, powers / powers.sum(0), atol=1e-5)
    np.testing.assert_array_equal(dense_crf(image, p, iterations=0), dense_crf(image, p, CRFPreset()))


@settings(max_examples=25, deadline=None)
@given(
    height=st.integers(1, 9), width=st.integers(1, 9), classes=st.integers(1, 19), seed=st.integers(0, 50),
    constant=st.booleans(), channels_first=st.booleans(),
)  # fmt: skip
def test_any_size(height: int, width: int, classes: int, seed: int, constant: bool, channels_first: bool) -> None:
    """One pixel, one row, one class, a constant image, both layouts: a distribution, the same in torch."""
    image = np.full((height, width, 3), 77, np.uint8) if constant else random_image(height, width, seed)
    p = random_probabilities(classes, height, width, seed)
    found = dense_crf(image.transpose(2, 0, 1) if channels_first and 3 not in (height, width) else image, p)
    assert found.shape == p.shape
    assert found.dtype == np.float32
    np.testing.assert_allclose(found.sum(0), 1, atol=1e-5)
    np.testing.assert_allclose(found, dense_crf(image, p, backend="torch"), atol=2e-4)
    np.testing.assert_array_equal(dense_crf(image, p, output="labels"), found.argmax(0))


def test_labels_are_the_arg_max() -> None:
    image, p = random_image(30, 40), random_probabilities(21, 30, 40)
    for options in ({}, {"prune": 0.3}, {"ignore": random_image(30, 40, 3)[..., 0] > 128}, {"prune": 0.9}):
        labels = dense_crf(image, p, output="labels", **options)
        assert labels.dtype == np.int64
        np.testing.assert_array_equal(labels, dense_crf(image, p, **options).argmax(0))
    energies = -np.log(p)
    np.testing.assert_array_equal(
        dense_crf(image, energies=energies, output="labels"), dense_crf(image, energies=energies).argmax(0)
    )


def test_smooths_towards_edges() -> None:
    """Two halves of different color, noisy labels: the CRF finds the halves."""
    image = np.zeros((20, 20, 3), np.uint8)
    image[:, 10:] = 200
    truth = (image[..., 0] > 0).astype(int)
    noisy = np.where(np.random.default_rng(0).random(truth.shape) < 0.25, 1 - truth, truth)
    p = probabilities_from_labels(noisy, 2, gt_prob=0.6)
    assert (noisy == truth).mean() < 0.8
    assert (dense_crf(image, p, CRFPreset(Gaussian(1, 1), Bilateral(5, 10, 10)), output="labels") == truth).all()


class TestPruning:
    image = random_image(40, 50)
    tau = 2e-3

    def probabilities(self) -> np.ndarray:
        p = random_probabilities(12, 40, 50)
        p[4:] *= self.tau
        p[:4] *= (1 - p[4:].sum(0)) / p[:4].sum(0)
        return p

    @pytest.mark.parametrize("backend", ["numba", "torch"])
    def test_within_the_bound(self, backend: Any) -> None:
        """A pruned class can neither send nor gain more than its share allows: bound it step by step.

        With every marginal of a pruned class at most b, its message is at most W c b, where W is the sum of the weights
        and c the largest row sum of a normalized kernel, and others' messages are not below 0, so that the next b is
        at most tau exp(W c b) / (1 - P tau) for P pruned classes.
        """
        p, weight = self.probabilities(), 4.0
        pruned, worst = p.max((1, 2)) <= self.tau, self.tau
        assert pruned.sum() == 8
        kernel = Bilateral(weight, 8, 20)
        ones = DenseCRF(self.image, kernel).mean_field
        row_sum = float(ones.lattice.row_sums().max() / ones.lattice.row_sums().min()) ** 0.5
        bound = worst
        for _ in range(5):
            bound = worst * np.exp(weight * row_sum * bound) / (1 - 8 * worst)
        crf = CRFPreset(bilateral=kernel, iterations=5)
        full = dense_crf(self.image, p, crf, backend=backend)
        found = dense_crf(self.image, p, crf, prune=self.tau, backend=backend)
        assert full[pruned].max() <= bound
        assert found[pruned].max() <= bound
        assert np.abs(full - found).max() <= 8 * bound * (1 + weight * row_sum)
        assert np.abs(full - found).max() > 0  # something was pruned
        np.testing.assert_allclose(found.sum(0), 1, atol=1e-5)

    def test_nothing_to_prune_changes_nothing(self) -> None:
        p = random_probabilities(5, 40, 50)
        np.testing.assert_array_equal(dense_crf(self.image, p, prune=1e-4), dense_crf(self.image, p))

    def test_everything_pruned_leaves_one(self) -> None:
        p = np.full((4, 40, 50), 0.25, np.float32)
        np.testing.assert_allclose(dense_crf(self.image, p, prune=0.9).sum(0), 1, atol=1e-5)


def test_ignored_pixels_take_no_part() -> None:
    image, p = random_image(20, 24), random_probabilities(4, 20, 24)
    ignore = np.zeros((20, 24), bool)
    ignore[5:9, 3:20] = True
    found = dense_crf(image, p, SMALL, ignore=ignore)
    np.testing.assert_array_equal(found[:, ignore], p[:, ignore])
    changed, other = p.copy(), image.copy()
    changed[:, ignore], other[ignore] = 0.25, 9  # whatever they hold
    again = dense_crf(other, changed, SMALL, ignore=ignore)
    np.testing.assert_array_equal(again[:, ~ignore], found[:, ~ignore])
    assert np.abs(dense_crf(image, p, SMALL)[:, ~ignore] - found[:, ~ignore]).max() > 1e-3
    np.testing.assert_allclose(dense_crf(image, p, SMALL, ignore=ignore, backend="torch"), found, atol=2e-4)
    np.testing.assert_array_equal(dense_crf(image, p, ignore=np.ones((20, 24), bool)), p)


def test_divergence_falls_and_is_the_same_in_torch() -> None:
    image, p = random_image(20, 24), random_probabilities(4, 20, 24)
    values: dict[str, list[float]] = {"numba": [], "torch": []}
    for backend, found in values.items():
        dense_crf(
            image, p, SMALL, divergence_callback=lambda step, value, out=found: out.append(value), backend=backend
        )  # type: ignore[misc]
    assert len(values["numba"]) == 6
    np.testing.assert_allclose(values["numba"], values["torch"], rtol=1e-4)
    assert values["numba"][-1] < values["numba"][0]


@pytest.mark.parametrize("backend", ["numba", "torch"])
def test_tolerance_stops_early(backend: Any) -> None:
    image, p = random_image(20, 24), random_probabilities(4, 20, 24)
    seen: list[int] = []
    crf, seen_step = CRFPreset(Gaussian(1, 1.5), iterations=200), lambda step, value: seen.append(step)
    found = dense_crf(image, p, crf, tolerance=1e-3, divergence_callback=seen_step, backend=backend)
    assert seen == list(range(len(seen)))
    assert 2 < len(seen) < 100
    assert np.abs(found - dense_crf(image, p, crf, backend=backend)).max() < 0.05


def test_batches_and_tensors() -> None:
    images = np.stack([random_image(8, 11, s) for s in range(3)])
    p = np.stack([random_probabilities(4, 8, 11, s) for s in range(3)])
    expected = np.stack([dense_crf(image, each) for image, each in zip(images, p, strict=True)])
    np.testing.assert_array_equal(dense_crf(images, p), expected)
    tensors = dense_crf(torch.from_numpy(images).permute(0, 3, 1, 2), torch.from_numpy(p))
    assert isinstance(tensors, torch.Tensor)
    np.testing.assert_array_equal(tensors.numpy(), expected)
    ignore = np.zeros((3, 8, 11), bool)
    ignore[1, :4] = True
    masked = dense_crf(images, p, ignore=ignore)
    np.testing.assert_array_equal(masked[[0, 2]], expected[[0, 2]])
    np.testing.assert_array_equal(masked[1, :, :4], p[1, :, :4])
    np.testing.assert_array_equal(dense_crf(images, p, output="labels"), expected.argmax(1))


def test_float64_is_computed_in_float32() -> None:
    image, p = random_image(8, 11), random_probabilities(4, 8, 11)
    found = dense_crf(image, p.astype(np.float64))
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, dense_crf(image, p))


def test_one_lattice_many_inferences() -> None:
    image, p = random_image(8, 11), random_probabilities(4, 8, 11)
    crf = DenseCRF(image, Gaussian(3, 1), Bilateral(1, 5, 9))
    for w in (2.0, 7.0):
        expected = dense_crf(image, p, CRFPreset(Gaussian(3, 1), Bilateral(w, 5, 9)), iterations=4)
        np.testing.assert_array_equal(crf.probabilities(p, MeanFieldOptions(4), weights=(3, w)), expected)


def test_features_of_your_own() -> None:
    image, p = random_image(8, 11), random_probabilities(4, 8, 11)
    same = Features(Bilateral(1, 5, 9).features(image).T.reshape(5, 8, 11), w=4)
    found = dense_crf(image, p, CRFPreset(features=(same,)))
    np.testing.assert_array_equal(found, dense_crf(image, p, CRFPreset(bilateral=Bilateral(4, 5, 9))))


def test_weights_of_a_search_keep_the_compatibility_matrix() -> None:
    image, p = random_image(8, 11), random_probabilities(4, 8, 11)
    matrix = np.random.default_rng(0).normal(size=(4, 4))
    expected = dense_crf(image, p, CRFPreset(bilateral=Bilateral(2.0, 5, 9, matrix)))
    crf = DenseCRF(image, Bilateral(1, 5, 9, matrix))
    np.testing.assert_array_equal(crf.probabilities(p, weights=[2.0]), expected)


@pytest.mark.parametrize("backend", ["numba", "torch"])
def test_all_pixels_ignored(backend: Any) -> None:
    image, p, ignore = random_image(8, 11), random_probabilities(4, 8, 11), np.ones((8, 11), bool)
    options = {"ignore": ignore, "tolerance": 1e-3, "backend": backend}
    np.testing.assert_array_equal(dense_crf(image, p, **options), p)
    np.testing.assert_array_equal(dense_crf(image, p, output="labels", **options), p.argmax(0))
    np.testing.assert_allclose(dense_crf(image, energies=-np.log(p), **options), p, atol=1e-6)


def test_pruning_in_both_backends_when_pixels_are_ignored() -> None:
    """Whether a class is pruned depends on all pixels, ignored or not."""
    image, p = random_image(8, 11), random_probabilities(3, 8, 11)
    p[2] *= 0.01
    p[2, 0, 0] = 0.9
    p /= p.sum(0)
    ignore = np.zeros((8, 11), bool)
    ignore[0, 0] = True
    numba, torch_ = (dense_crf(image, p, prune=0.5, ignore=ignore, backend=b) for b in ("numba", "torch"))
    np.testing.assert_allclose(numba, torch_, atol=2e-4)
