"""Against what pydensecrf2 1.1 computed (`crf/reference.npz`) and, where it is installed, computes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

import atrous.crf.pydensecrf.densecrf as dcrf
from atrous.crf import PRESETS, Bilateral, CRFPreset, Gaussian, dense_crf
from atrous.crf.pydensecrf import utils
from tests.crf.crf_samples import random_image, random_probabilities

CASES = {
    "im1_q": PRESETS["krahenbuhl"],
    "plane_q_default": PRESETS["krahenbuhl"],
    "plane_q_v2": CRFPreset(Gaussian(3, 1), Bilateral(4, 67, 3)),
    "plane_q_bilateral_only": CRFPreset(bilateral=Bilateral(4, 49, 5)),
}


@pytest.fixture(scope="module")
def reference(shared_data: Path) -> dict[str, Any]:
    folder = shared_data / "crf"
    arrays = dict(np.load(folder / "reference.npz"))
    for name, file in (("im1", "im1.ppm"), ("plane", "plane.bmp")):
        arrays[name] = cv2.cvtColor(cv2.imread(str(folder / file)), cv2.COLOR_BGR2RGB)
    return arrays


def assert_same(found: np.ndarray, expected: np.ndarray, tight: bool = True) -> None:
    difference = np.abs(found - expected.reshape(found.shape))
    assert difference.max() <= 2e-3
    assert difference.mean() <= 2e-5
    assert (found.argmax(0) == expected.reshape(found.shape).argmax(0)).mean() >= 0.9995
    if tight:  # what we hold in fact: float32 rounding
        assert difference.max() <= 2e-5


def unaries(reference: dict[str, Any], case: str) -> dict[str, Any]:
    if case.startswith("im1"):
        return {"energies": reference["im1_unary"]}
    return {"probabilities": reference["plane_probabilities"]}


@pytest.mark.parametrize("backend", ["numba", "torch"])
@pytest.mark.parametrize("case", CASES)
def test_reference(reference: dict[str, Any], case: str, backend: str) -> None:
    image = reference[case.split("_")[0]]
    found = dense_crf(image, **unaries(reference, case), crf=CASES[case], backend=backend)
    assert_same(found, reference[case])


@pytest.mark.parametrize("case", CASES)
def test_reference_through_the_drop_in(reference: dict[str, Any], case: str) -> None:
    image = reference[case.split("_")[0]]
    energy = (
        reference["im1_unary"].reshape(2, -1)
        if case.startswith("im1")
        else utils.unary_from_softmax(reference["plane_probabilities"])
    )
    crf = dcrf.DenseCRF2D(image.shape[1], image.shape[0], len(energy))
    crf.setUnaryEnergy(energy)
    if case == "plane_q_v2":
        crf.addPairwiseGaussian(sxy=1, compat=3)
        crf.addPairwiseBilateral(sxy=67, srgb=3, rgbim=image, compat=4)
    elif case == "plane_q_bilateral_only":
        crf.addPairwiseBilateral(sxy=49, srgb=5, rgbim=image, compat=4)
    else:
        crf.addPairwiseGaussian(sxy=3, compat=3)
        crf.addPairwiseBilateral(sxy=80, srgb=13, rgbim=image, compat=10)
    steps = 5 if case in ("im1_q", "plane_q_default") else 10
    found = crf.inference(steps)
    assert_same(np.array(found), reference[case])
    assert np.array_equal(crf.map(steps), found.argmax(0))


def test_unary_from_labels_is_the_reference(reference: dict[str, Any]) -> None:
    found = utils.unary_from_labels(reference["im1_labels"].astype(np.int32), 2, gt_prob=0.7, zero_unsure=True)
    np.testing.assert_array_equal(found, reference["im1_unary"].reshape(2, -1))


class TestLive:
    """The same script through both packages. Sizes are multiples of 4: the original pads others with pixels at the
    origin, whose vertices then take part in the blur."""

    HEIGHT, WIDTH, CLASSES = 12, 20, 5

    @pytest.fixture
    def theirs(self) -> Any:
        return pytest.importorskip("pydensecrf.densecrf", reason="pydensecrf2 is not installed")

    def run(self, package: Any, compat: Any, kernel: str, normalization: str) -> tuple[np.ndarray, list[float]]:
        image = random_image(self.HEIGHT, self.WIDTH)
        energy = -np.log(random_probabilities(self.CLASSES, self.HEIGHT, self.WIDTH)).reshape(self.CLASSES, -1)
        crf = package.DenseCRF2D(self.WIDTH, self.HEIGHT, self.CLASSES)
        crf.setUnaryEnergy(np.ascontiguousarray(energy))
        options = {"kernel": getattr(package, kernel), "normalization": getattr(package, normalization)}
        crf.addPairwiseGaussian(sxy=(2, 3), compat=compat, **options)
        crf.addPairwiseBilateral(sxy=5, srgb=(9, 10, 11), rgbim=image, compat=compat, **options)
        marginals, scratch, more = crf.startInference()
        divergences = []
        for _ in range(3):
            divergences.append(crf.klDivergence(marginals))
            crf.stepInference(marginals, scratch, more)
        np.testing.assert_allclose(np.array(crf.inference(3)), np.array(marginals), atol=1e-5)
        return np.array(marginals), divergences

    @pytest.mark.parametrize(
        "normalization", ["NO_NORMALIZATION", "NORMALIZE_BEFORE", "NORMALIZE_AFTER", "NORMALIZE_SYMMETRIC"]
    )
    @pytest.mark.parametrize("kernel", ["CONST_KERNEL", "DIAG_KERNEL", "FULL_KERNEL"])
    def test_normalization_and_kernel(self, theirs: Any, kernel: str, normalization: str) -> None:
        compat = 0.3 if normalization == "NO_NORMALIZATION" else 3.0
        (found, mine), (expected, others) = (self.run(p, compat, kernel, normalization) for p in (dcrf, theirs))
        np.testing.assert_allclose(found, expected, atol=3e-5)
        np.testing.assert_allclose(mine, others, rtol=1e-4)

    @pytest.mark.parametrize("kind", ["vector", "matrix"])
    def test_compatibility(self, theirs: Any, kind: str) -> None:
        rng = np.random.default_rng(3)
        compat = rng.normal(-1, 1, self.CLASSES if kind == "vector" else (self.CLASSES, self.CLASSES)).astype(
            np.float32
        )
        runs = [self.run(package, compat, "DIAG_KERNEL", "NORMALIZE_SYMMETRIC") for package in (dcrf, theirs)]
        np.testing.assert_allclose(runs[0][0], runs[1][0], atol=3e-5)
        np.testing.assert_allclose(runs[0][1], runs[1][1], rtol=1e-4)

    @pytest.mark.parametrize("shape", [(32,), (8, 12), (4, 6, 8)])
    def test_any_dimension(self, theirs: Any, shape: tuple[int, ...]) -> None:
        their_utils = pytest.importorskip("pydensecrf.utils")
        rng = np.random.default_rng(1)
        image, points = rng.uniform(0, 60, (*shape, 2)).astype(np.float32), int(np.prod(shape))
        energy = rng.uniform(0, 3, (3, points)).astype(np.float32)
        results = []
        for package, tools in ((dcrf, utils), (theirs, their_utils)):
            crf = package.DenseCRF(points, 3)
            crf.setUnaryEnergy(energy)
            sigmas = (2.0, 3.0, 4.0)[: len(shape)]
            crf.addPairwiseEnergy(tools.create_pairwise_gaussian(sigmas, shape), compat=2)
            features = tools.create_pairwise_bilateral(sigmas, (9, 7), image, chdim=len(shape))
            crf.addPairwiseEnergy(np.ascontiguousarray(features), compat=4)
            results.append(np.array(crf.inference(4)))
        np.testing.assert_allclose(*results, atol=3e-5)

    def test_utils(self, theirs: Any) -> None:
        their_utils = pytest.importorskip("pydensecrf.utils")
        rng = np.random.default_rng(2)
        labels, soft = rng.integers(0, 4, (6, 7)), random_probabilities(4, 6, 7)
        for unsure, count in ((True, 3), (False, 4)):
            mine = utils.unary_from_labels(labels, count, 0.6, zero_unsure=unsure)
            np.testing.assert_array_equal(mine, their_utils.unary_from_labels(labels, count, 0.6, zero_unsure=unsure))
        for scale, clip in ((None, 1e-5), (0.5, 1e-5), (0.9, None)):
            mine = utils.unary_from_softmax(soft, scale, clip)
            np.testing.assert_allclose(mine, their_utils.unary_from_softmax(soft, scale, clip), rtol=1e-6)
            assert mine.dtype == np.float32
        gray = rng.uniform(0, 9, (6, 7)).astype(np.float32)
        np.testing.assert_allclose(
            utils.create_pairwise_bilateral((2, 3), 4, gray), their_utils.create_pairwise_bilateral((2, 3), 4, gray)
        )
        with pytest.deprecated_call():
            utils.compute_unary(labels, 3)
        with pytest.deprecated_call():
            utils.softmax_to_unary(soft)
