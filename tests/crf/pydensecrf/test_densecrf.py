"""The drop-in beyond the original: other kinds of arrays, logistic unaries, and errors."""

from __future__ import annotations

import numpy as np
import pytest

import atrous.crf.pydensecrf.densecrf as dcrf
from atrous.crf.pydensecrf import utils
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


def test_bad_use_of_the_drop_in() -> None:
    crf = dcrf.DenseCRF2D(14, 10, 3)
    with pytest.raises(ValueError, match=r"Need \(3, 140\), got \(140, 3\)"):
        crf.setUnaryEnergy(np.zeros((140, 3), np.float32))
    with pytest.raises(ValueError, match=r"Need \(10, 14, 3\), got \(14, 10, 3\)"):
        crf.addPairwiseBilateral(5, 9, np.zeros((14, 10, 3), np.uint8), 4)
    with pytest.raises(ValueError, match="expected uint8"):
        crf.addPairwiseBilateral(5, 9, np.zeros((10, 14, 3)), 4)
    with pytest.raises(ValueError, match=r"compat has shape \(2,\)"):
        crf.addPairwiseGaussian(3, np.zeros(2))
    with pytest.raises(ValueError, match=r"Need \(\?, 140\)"):
        crf.addPairwiseEnergy(np.zeros((2, 7), np.float32), 1)


def test_logistic_unary() -> None:
    rng = np.random.default_rng(5)
    weights, features = rng.normal(size=(3, 4)).astype(np.float32), rng.normal(size=(4, 20)).astype(np.float32)
    crf = dcrf.DenseCRF(20, 3)
    crf.setUnaryEnergy(weights, features)
    energy = weights @ features
    np.testing.assert_allclose(crf.inference(3), np.exp(-energy) / np.exp(-energy).sum(0), atol=1e-6)
