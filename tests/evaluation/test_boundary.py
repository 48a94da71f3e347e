from __future__ import annotations

import math

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from atrous import AtrousError
from atrous.evaluation import BoundaryScores, ConfusionMatrix, TrimapCurve
from atrous.evaluation.boundary import _near_outline, distance_to_boundary

MAPS = arrays(np.uint8, (13, 17), elements=st.sampled_from([0, 1, 2, 255]))


def blobs(seed: int, height: int = 90, width: int = 120) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(size=(3, height, width)).astype(np.float32)
    return np.stack([cv2.GaussianBlur(plane, (0, 0), 8) for plane in noise]).argmax(0).astype(np.uint8)


@given(truth=MAPS, prediction=arrays(np.uint8, (13, 17), elements=st.integers(0, 2)), width=st.integers(1, 6))
def test_a_band_holds_the_pixels_within_its_width(truth: np.ndarray, prediction: np.ndarray, width: int) -> None:
    curve = TrimapCurve(3, max_width=6)
    curve.update(truth, prediction)
    edges = []
    for y in range(13):
        for x in range(17):
            beside = [(y + dy, x + dx) for dy, dx in ((0, 1), (1, 0), (0, -1), (-1, 0))]
            inside = [place for place in beside if 0 <= place[0] < 13 and 0 <= place[1] < 17]
            if truth[y, x] == 255 or any(truth[place] != truth[y, x] for place in inside):
                edges.append((y, x))
    expected = ConfusionMatrix(3)
    for y in range(13):
        for x in range(17):
            if truth[y, x] != 255 and any(math.hypot(y - v, x - u) <= width + 1e-6 for v, u in edges):
                expected.counts[truth[y, x], prediction[y, x]] += 1
    assert curve.within(width) == expected


@pytest.mark.parametrize("metric", [TrimapCurve, BoundaryScores])
@pytest.mark.parametrize(
    ("truth", "prediction"),
    [([[0, 0, 1, 1]], [[0, 2, 1, 1]]), ([[0, 3, 1, 1]], [[0, 0, 1, 1]]), ([[0, 1]], [[0], [1]])],
)
def test_values_outside_the_classes_and_other_sizes_are_refused(
    metric: type[TrimapCurve | BoundaryScores], truth: list[list[int]], prediction: list[list[int]]
) -> None:
    with pytest.raises(AtrousError, match="label map"):
        metric(2).update(np.array(truth, np.uint8), np.array(prediction, np.uint8))


def test_an_image_without_boundaries_is_in_no_band() -> None:
    curve = TrimapCurve(2)
    curve.update(np.zeros((9, 9), np.uint8), np.zeros((9, 9), np.uint8))
    assert curve.counts.sum() == 0
    assert np.isinf(distance_to_boundary(np.zeros((3, 3), np.uint8), 255)).all()
    assert math.isnan(curve.miou()[0])
    with pytest.raises(AtrousError, match="1 to 40"):
        curve.within(41)


def test_errors_at_boundaries_show_in_narrow_bands() -> None:
    truth = blobs(0)
    shifted = np.roll(truth, 3, 1)
    curve = TrimapCurve(3)
    curve.update(truth, shifted)
    accuracy = curve.pixel_accuracy()
    assert accuracy[0] < accuracy[5] < accuracy[39]
    assert len(curve.miou()) == 40


@given(labels=MAPS, width=st.integers(1, 5))
def test_the_inner_boundary_equals_erosion(labels: np.ndarray, width: int) -> None:
    """As `mask_to_boundary` of the authors of boundary IoU: eroded by a 3 x 3 square, zeros beyond the image."""
    within = _near_outline(labels.astype(np.int32), width)
    for label in np.unique(labels):
        mask = (labels == label).astype(np.uint8)
        framed = cv2.copyMakeBorder(mask, 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
        eroded = cv2.erode(framed, np.ones((3, 3), np.uint8), iterations=width)[1:-1, 1:-1]
        np.testing.assert_array_equal(within[mask == 1], (mask - eroded)[mask == 1] == 1)


def test_boundary_iou_equals_the_authors_definition() -> None:
    truth, prediction = blobs(0), np.roll(blobs(0), 4, 0)
    scores = BoundaryScores(3)
    scores.update(truth, prediction)
    steps = max(1, round(0.02 * math.hypot(90, 120)))

    def boundary(mask: np.ndarray) -> np.ndarray:
        framed = cv2.copyMakeBorder(mask.astype(np.uint8), 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
        return mask & ~cv2.erode(framed, np.ones((3, 3), np.uint8), iterations=steps)[1:-1, 1:-1].astype(bool)

    for label in range(3):
        true, predicted = boundary(truth == label), boundary(prediction == label)
        assert scores.iou[label] == pytest.approx((true & predicted).sum() / (true | predicted).sum())


def test_perfect_predictions_score_1_and_void_is_ignored() -> None:
    truth = blobs(1)
    truth[cv2.dilate((truth[:, 1:] != truth[:, :-1]).astype(np.uint8), np.ones((5, 5))).astype(bool).nonzero()] = 255
    scores = BoundaryScores(4)
    scores.update(truth, np.where(truth == 255, 1, truth).astype(np.uint8))
    np.testing.assert_array_equal(scores.iou, [1, 1, 1, np.nan])
    np.testing.assert_array_equal(scores.f_score, [1, 1, 1, np.nan])
    assert scores.miou == scores.mean_f_score == 1


def test_boundary_f_counts_outlines_within_the_tolerance() -> None:
    truth = np.zeros((100, 100), np.uint8)
    truth[:, 50:] = 1
    near, far = np.roll(truth, 2, 1), np.zeros_like(truth)
    near[:, :2] = 0  # what came round
    far[:, 60:] = 1
    for prediction, expected in ((near, 1.0), (far, 0.0)):
        scores = BoundaryScores(2)
        scores.update(truth, prediction)  # the tolerance is 2 pixels: 0.75 % of 141
        np.testing.assert_allclose(scores.f_score, expected)
