"""The figures, against loops written down from their definitions."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from atrous import AtrousError
from atrous.evaluation import BoundaryScores, ConfusionMatrix, TrimapCurve

MAPS = st.tuples(st.integers(1, 6), st.integers(1, 9), st.integers(1, 9), st.integers(0, 10**6))


def drawn(classes: int, height: int, width: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, classes, (height, width)).astype(np.uint8)
    prediction = np.where(rng.random((height, width)) < 0.5, truth, rng.integers(0, classes, (height, width)))
    truth[rng.random((height, width)) < 0.2] = 255
    return truth, prediction.astype(np.uint8)


@given(sizes=MAPS)
def test_the_matrix_and_its_figures_are_those_of_a_loop(sizes: tuple[int, int, int, int]) -> None:
    classes, *_ = sizes
    truth, prediction = drawn(*sizes)
    matrix = ConfusionMatrix(classes)
    matrix.update(truth, prediction)
    pairs = [(int(t), int(p)) for t, p in zip(truth.flat, prediction.flat, strict=True) if t != 255]
    ious, accuracies, weighted = [], [], 0.0
    for label in range(classes):
        both = sum(t == p == label for t, p in pairs)
        either = sum(label in (t, p) for t, p in pairs)
        true = sum(t == label for t, _ in pairs)
        if either:
            ious.append(both / either)
            weighted += true * both / either
        if true:
            accuracies.append(both / true)
    if not pairs:
        assert math.isnan(matrix.miou)
        return
    assert matrix.miou == pytest.approx(sum(ious) / len(ious), abs=1e-9)
    assert matrix.pixel_accuracy == pytest.approx(sum(t == p for t, p in pairs) / len(pairs), abs=1e-9)
    assert matrix.mean_accuracy == pytest.approx(sum(accuracies) / len(accuracies), abs=1e-9)
    assert matrix.frequency_weighted_iou == pytest.approx(weighted / len(pairs), abs=1e-9)


def test_absent_classes_are_left_out_and_invented_ones_count_zero() -> None:
    matrix = ConfusionMatrix(4)
    matrix.update(np.array([0, 0, 1, 1]), np.array([0, 0, 1, 2]))
    assert matrix.iou[:3].tolist() == [1.0, 0.5, 0.0]
    assert math.isnan(matrix.iou[3])
    assert matrix.miou == 0.5


def test_matrices_add_and_tensors_count_like_arrays() -> None:
    first, second = drawn(5, 8, 9, 1), drawn(5, 8, 9, 2)
    parts = [ConfusionMatrix(5), ConfusionMatrix(5), ConfusionMatrix(5)]
    parts[0].update(*first)
    parts[1].update(*map(torch.from_numpy, second))
    for pair in (first, second):
        parts[2].update(*pair)
    assert parts[0] + parts[1] == parts[2]
    assert parts[2].counts.dtype == np.int64
    with pytest.raises(AtrousError):
        _ = parts[0] + ConfusionMatrix(4)


def test_values_that_are_no_class_are_named_and_nothing_is_counted() -> None:
    matrix = ConfusionMatrix(3)
    with pytest.raises(AtrousError, match=r"street.png: the truth holds 7; classes 0 to 2"):
        matrix.update(np.array([0, 7]), np.array([0, 0]), name="street.png")
    with pytest.raises(AtrousError, match="the prediction holds 3"):
        matrix.update(np.array([0, 1]), np.array([0, 3]))
    with pytest.raises(AtrousError, match="the truth is 2, the prediction 3"):
        matrix.update(np.array([0, 1]), np.array([0, 1, 2]))
    assert matrix.counts.sum() == 0


@settings(max_examples=25)
@given(sizes=MAPS, width=st.integers(1, 6))
def test_a_trimap_band_is_the_pixels_near_a_boundary_or_void(sizes: tuple[int, int, int, int], width: int) -> None:
    classes, height, columns, _ = sizes
    truth, prediction = drawn(*sizes)
    curve = TrimapCurve(classes, widest=6)
    curve.update(truth, prediction)
    edges = []
    for y in range(height):
        for x in range(columns):
            beside = [(y + 1, x), (y - 1, x), (y, x + 1), (y, x - 1)]
            values = [truth[a, b] for a, b in beside if 0 <= a < height and 0 <= b < columns]
            if truth[y, x] == 255 or any(value != truth[y, x] for value in values):
                edges.append((y, x))
    expected = np.zeros((classes, classes), np.int64)
    for y in range(height):
        for x in range(columns):
            near = any(math.hypot(y - a, x - b) <= width + 1e-6 for a, b in edges)
            if near and truth[y, x] != 255:
                expected[truth[y, x], prediction[y, x]] += 1
    np.testing.assert_array_equal(curve.within(width).counts, expected)


def test_boundaries_reward_what_lies_on_them() -> None:
    truth = np.zeros((100, 100), np.uint8)
    truth[30:70, 30:70] = 1
    shifted = np.roll(truth, 3, axis=1)
    coarse = np.zeros_like(truth)
    coarse[20:80, 20:80] = 1
    perfect, near, far = BoundaryScores(2), BoundaryScores(2), BoundaryScores(2)
    for scores, prediction in ((perfect, truth), (near, shifted), (far, coarse)):
        scores.update(truth, prediction)
    assert perfect.miou == perfect.mean_f == 1
    assert 1 > near.iou[1] > far.iou[1]
    assert 1 > near.f[1] > far.f[1]
    assert far.f[1] == 0
    both = (shifted == 1) & (truth == 1)
    assert near.iou[1] < both.sum() / ((shifted == 1) | (truth == 1)).sum()  # harder than the IoU of areas
