"""The drop-in beyond the original: other kinds of arrays, logistic unaries, and errors."""

from __future__ import annotations

import numpy as np
import pytest

import atrous.crf.pydensecrf.densecrf as dcrf
from atrous.crf.pydensecrf import eigen, pairwise, unary, utils
from tests.crf.crf_samples import random_image, random_probabilities


def test_arrays_that_break_the_original() -> None:
    image, soft = random_image(10, 14), random_probabilities(3, 10, 14)
    expected = None
    for kind in ("plain", "read-only", "non-contiguous", "float64"):
        energy, picture = utils.unary_from_softmax(soft), image.copy()
        if kind == "read-only":
            energy.flags.writeable = picture.flags.writeable = False
        if kind == "non-contiguous":
            energy, picture = np.asfortranarray(energy), np.asfortranarray(picture)
        if kind == "float64":
            energy = energy.astype(np.float64)
        crf = dcrf.DenseCRF2D(14, 10, 3)
        crf.setUnaryEnergy(energy)
        crf.addPairwiseBilateral(5, 9, picture, compat=4)
        found = crf.inference(3)
        expected = found if expected is None else expected
        np.testing.assert_allclose(found, expected, atol=1e-6)


def test_the_unary_energy_is_copied() -> None:
    energy = np.zeros((2, 6), np.float32)
    crf = dcrf.DenseCRF(6, 2)
    crf.setUnaryEnergy(energy)
    energy[0] = 5
    np.testing.assert_array_equal(crf.inference(0), 0.5)


def test_bad_use_of_the_drop_in() -> None:
    crf = dcrf.DenseCRF2D(14, 10, 3)
    with pytest.raises(ValueError, match=r"Need \(3, 140\), got \(140, 3\)"):
        crf.setUnaryEnergy(np.zeros((140, 3), np.float32))
    with pytest.raises(ValueError, match=r"Need \(10, 14, 3\), got \(14, 10, 3\)"):
        crf.addPairwiseBilateral(5, 9, np.zeros((14, 10, 3), np.uint8), 4)
    with pytest.raises(ValueError, match="expected uint8"):
        crf.addPairwiseBilateral(5, 9, np.zeros((10, 14, 3)), 4)
    with pytest.raises(ValueError, match=r"compat has shape \(2,\)"):
        crf.addPairwiseGaussian(3, np.zeros(2, np.float32))
    with pytest.raises(ValueError, match=r"Need \(\?, 140\)"):
        crf.addPairwiseEnergy(np.zeros((2, 7), np.float32), 1)


def test_logistic_unary() -> None:
    rng = np.random.default_rng(5)
    weights, features = rng.normal(size=(3, 4)).astype(np.float32), rng.normal(size=(4, 20)).astype(np.float32)
    crf = dcrf.DenseCRF(20, 3)
    crf.setUnaryEnergy(weights, features)
    energy = weights @ features
    np.testing.assert_allclose(crf.inference(3), np.exp(-energy) / np.exp(-energy).sum(0), atol=1e-6)


@pytest.mark.parametrize("compat", [np.ones(3), np.eye(3), np.ones(3, int)], ids=["vector", "matrix", "integers"])
def test_compat_is_float32_as_in_the_original(compat: np.ndarray) -> None:
    crf = dcrf.DenseCRF2D(14, 10, 3)
    with pytest.raises(ValueError, match=rf"compat is an array of {compat.dtype}, expected float32"):
        crf.addPairwiseGaussian(3, compat)
    with pytest.raises(ValueError, match="expected float32"):
        crf.addPairwiseBilateral(3, 3, random_image(10, 14), compat)
    with pytest.raises(ValueError, match="expected float32"):
        crf.addPairwiseEnergy(np.zeros((2, 140), np.float32), compat)
    crf.addPairwiseGaussian(3, compat.astype(np.float32))
    crf.addPairwiseGaussian(3, np.float64(3))


@pytest.mark.parametrize("sigma", [0, -1, (0, 3), (1, 2, 3, 4), np.nan, np.inf])
def test_deviations_that_are_not_positive_are_refused_at_once(sigma: object) -> None:
    crf = dcrf.DenseCRF2D(14, 10, 3)
    with pytest.raises(ValueError, match="sxy must be one positive number or 2 of them, found"):
        crf.addPairwiseGaussian(sigma, 3)
    with pytest.raises(ValueError, match="sxy must be one positive number or 2 of them, found"):
        crf.addPairwiseBilateral(sigma, 3, random_image(10, 14), 3)
    with pytest.raises(ValueError, match="srgb must be one positive number or 3 of them, found"):
        crf.addPairwiseBilateral(3, sigma, random_image(10, 14), 3)
    with pytest.raises(ValueError, match="sdims must be positive"):
        utils.create_pairwise_gaussian((sigma, 3) if np.isscalar(sigma) else sigma, (10, 14))


def test_unaries_as_objects() -> None:
    rng = np.random.default_rng(5)
    weights, features = rng.normal(size=(3, 4)).astype(np.float32), rng.normal(size=(4, 20)).astype(np.float32)
    results = []
    for each in (dcrf.ConstUnary(weights @ features), unary.LogisticUnary(weights, features)):
        crf = dcrf.DenseCRF(20, 3)
        crf.setUnary(each)
        results.append(crf.inference(3))
    crf = dcrf.DenseCRF(20, 3)
    crf.setUnaryEnergy(weights @ features)
    for result in results:
        np.testing.assert_array_equal(result, crf.inference(3))
    assert pairwise.DIAG_KERNEL is dcrf.DIAG_KERNEL


def test_arrays_of_eigen() -> None:
    vector, matrix = np.arange(3, dtype=np.float32), np.arange(6, dtype=np.float32).reshape(2, 3)
    np.testing.assert_array_equal(np.array(eigen.vectorXf(vector)), vector)
    copied = eigen.matrixXf(matrix)
    np.testing.assert_array_equal(np.array(copied), matrix)
    assert copied.strides == (4, 8)
    assert (eigen.VectorXf().shape, eigen.MatrixXf().shape) == ((0,), (0, 0))
    for function, array in ((eigen.vectorXf, matrix), (eigen.matrixXf, vector), (eigen.vectorXf, vector.astype(float))):
        with pytest.raises(ValueError, match="expected"):
            function(array)
