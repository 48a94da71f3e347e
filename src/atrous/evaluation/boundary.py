"""Boundary metrics: trimap curve, boundary IoU and boundary F score.

All counts are summed over the data set before they are divided. Pixels whose truth is the ignored label do not count.
"""

from __future__ import annotations

import math

import cv2
import numba
import numpy as np
from numpy.typing import NDArray

from atrous.errors import AtrousError
from atrous.evaluation.confusion import ConfusionMatrix, nan_mean, safe_divide
from atrous.imaging.labels import Labels

MAX_WIDTH = 40
"""The width of the widest band of the papers' trimap curves, in pixels."""


class TrimapCurve:
    """Trimap curve: mIoU and pixel accuracy in bands around the true boundaries, as a function of the band's width.

    A pixel is in the band of width d if it is at most d pixels (Euclidean, between centers) from a boundary. Boundary
    pixels are those next to another class, and ignored ones, with which PASCAL VOC draws its boundaries.

    Shape: `counts` (max_width, K, K): the confusion of the pixels at a distance in (d - 1, d], d = 1 ... `max_width`.
    Source: Krähenbühl, Koltun 2011, section 6; DeepLab v1 section 5.2 and figure 6, v2 figure 10, v3+ section 4.3.
    """

    def __init__(self, num_classes: int, *, ignore_index: int = 255, max_width: int = MAX_WIDTH) -> None:
        self.ignore_index = ignore_index
        self.counts: NDArray[np.int64] = np.zeros((max_width, num_classes, num_classes), np.int64)

    def update(self, truth: Labels, prediction: Labels) -> None:
        """Count one image.

        Shape: both (H, W): classes, and the ignored label in the truth.
        Raises: `AtrousError` for maps of different sizes, or a value outside the classes.
        """
        _check(truth, prediction, self.counts.shape[1], self.ignore_index)
        _count_bands(truth, prediction, distance_to_boundary(truth, self.ignore_index), self.ignore_index, self.counts)

    def within(self, width: int) -> ConfusionMatrix:
        """Compute the confusion matrix of the band of a width, from 1 to `max_width` pixels.

        Raises: `AtrousError` for another width.
        """
        if not 1 <= width <= len(self.counts):
            raise AtrousError(f"width {width}: 1 to {len(self.counts)} pixels are expected.")
        matrix = ConfusionMatrix(self.counts.shape[1], ignore_index=self.ignore_index)
        matrix.counts = self.counts[:width].sum(0)
        return matrix

    def miou(self) -> list[float]:
        """Compute the mIoU in bands of 1, 2, ... pixels."""
        return [self.within(width).miou for width in range(1, len(self.counts) + 1)]

    def pixel_accuracy(self) -> list[float]:
        """Compute the pixel accuracy in bands of 1, 2, ... pixels."""
        return [self.within(width).pixel_accuracy for width in range(1, len(self.counts) + 1)]


def _check(truth: Labels, prediction: Labels, num_classes: int, ignore_index: int) -> None:
    """Check sizes and values of label maps, by counting them: compiled code would write outside its arrays."""
    ConfusionMatrix(num_classes, ignore_index=ignore_index).update(truth, prediction)


def distance_to_boundary(truth: Labels, ignore_index: int) -> NDArray[np.float32]:
    """Compute the distance to the nearest boundary in pixels: 0 on a boundary, infinite in an image without one.

    Shape: (H, W) -> (H, W).
    """
    edge = (truth == ignore_index).astype(np.uint8)
    down, across = truth[1:] != truth[:-1], truth[:, 1:] != truth[:, :-1]
    for part, differs in ((edge[1:], down), (edge[:-1], down), (edge[:, 1:], across), (edge[:, :-1], across)):
        part |= differs
    if not edge.any():
        return np.full(truth.shape, np.inf, np.float32)
    return np.asarray(cv2.distanceTransform(1 - edge, cv2.DIST_L2, cv2.DIST_MASK_PRECISE))


@numba.njit(cache=True, nogil=True)
def _count_bands(truth, prediction, distance, ignore_index, counts):  # type: ignore[no-untyped-def]
    max_width = len(counts)
    for y in range(truth.shape[0]):
        for x in range(truth.shape[1]):
            if truth[y, x] != ignore_index and distance[y, x] <= max_width:
                band = max(1, math.ceil(distance[y, x] - 1e-4))  # OpenCV's distances are exact to 1e-5
                counts[band - 1, truth[y, x], prediction[y, x]] += 1


class BoundaryScores:
    """Boundary IoU and boundary F score of each class.

    Boundary IoU: the IoU of the pixels of a class within d pixels of its outline, which includes the image's border; d
    is 2 % of the image's diagonal (distances in 8-connected steps, as by erosion with a 3 x 3 square).

    Boundary F score: the harmonic mean of precision (the fraction of the predicted outline within a tolerance of the
    true one) and recall (the fraction of the true outline within the tolerance of the predicted one); the tolerance is
    0.75 % of the diagonal.

    Ignored pixels are removed from truth and prediction before outlines are drawn, so that both have an outline where a
    class meets ignored pixels: inside the void that VOC draws around objects nothing is correct or wrong.

    Shape: `counts` (7, K), int64: three rows for boundary IoU, four for the boundary F score.
    Source: Cheng, Girshick, Dollar, Berg, Kirillov: Boundary IoU, CVPR 2021, equation 2 and section 5; Csurka, Larlus,
    Perronnin: What is a good evaluation measure for semantic segmentation?, BMVC 2013 (there averaged over images).
    """

    width = 0.02
    tolerance = 0.0075

    def __init__(self, num_classes: int, *, ignore_index: int = 255) -> None:
        self.ignore_index = ignore_index
        self.counts: NDArray[np.int64] = np.zeros((7, num_classes), np.int64)

    def update(self, truth: Labels, prediction: Labels) -> None:
        """Count one image.

        Shape: both (H, W): classes, and the ignored label in the truth.
        Raises: `AtrousError` for maps of different sizes, or a value outside the classes.
        """
        _check(truth, prediction, self.counts.shape[1], self.ignore_index)
        classes = self.counts.shape[1]
        diagonal = math.hypot(*truth.shape)
        void = truth == self.ignore_index
        true = np.where(void, classes, truth).astype(np.int32)
        predicted = np.where(void, classes, prediction).astype(np.int32)
        width = max(1, round(self.width * diagonal))
        near_true, near_predicted = _near_outline(true, width), _near_outline(predicted, width)
        both = near_true & near_predicted & (true == predicted)
        for row, labels in ((0, true[both]), (1, true[near_true]), (2, predicted[near_predicted])):
            self.counts[row] += np.bincount(labels, minlength=classes + 1)[:classes]
        tolerance = max(1, math.ceil(self.tolerance * diagonal))
        for label in np.union1d(np.unique(true), np.unique(predicted)):
            if label < classes:
                self.counts[3:, label] += _match(_outline(true == label), _outline(predicted == label), tolerance)

    @property
    def iou(self) -> NDArray[np.float64]:
        """Boundary IoU of each class; NaN for a class in neither truth nor prediction.

        Shape: (K,).
        """
        both, true, predicted = self.counts[:3]
        return safe_divide(both, true + predicted - both)

    @property
    def miou(self) -> float:
        """The mean of `iou` over the classes where it is defined."""
        return nan_mean(self.iou)

    @property
    def f_score(self) -> NDArray[np.float64]:
        """Boundary F score of each class: 0 without a match, NaN if neither truth nor prediction has an outline.

        Shape: (K,).
        """
        matched_predicted, predicted, matched_true, true = self.counts[3:].astype(np.float64)
        numerator = 2 * matched_predicted * matched_true
        denominator = matched_predicted * true + matched_true * predicted
        return safe_divide(numerator, denominator, where=predicted + true > 0)

    @property
    def mean_f_score(self) -> float:
        """The mean of `f_score` over the classes where it is defined."""
        return nan_mean(self.f_score)


def _near_outline(labels: NDArray[np.int32], width: int) -> NDArray[np.bool_]:
    """Mark the pixels that are at most `width` steps from a pixel of another class, or from outside the image.

    Distances are measured to the nearest pixel, of any class, that has another class among its eight neighbors: the
    nearest such pixel is never nearer than the nearest one of the pixel's own class.

    Shape: (H, W) -> (H, W).
    """
    edge = np.ones(labels.shape, np.uint8)
    if min(labels.shape) < 3:
        return np.ones(labels.shape, bool)
    inner = np.zeros_like(edge[1:-1, 1:-1])
    height, width_ = labels.shape
    for down in range(3):
        for across in range(3):
            moved = labels[down : height - 2 + down, across : width_ - 2 + across]
            inner |= moved != labels[1:-1, 1:-1]
    edge[1:-1, 1:-1] = inner
    return np.asarray(cv2.distanceTransform(1 - edge, cv2.DIST_C, 3) < width)


def _outline(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Mark the pixels of a mask that have one of four neighbors outside it; the image's border does not count."""
    outside = np.zeros(mask.shape, bool)
    outside[1:] |= ~mask[:-1]
    outside[:-1] |= ~mask[1:]
    outside[:, 1:] |= ~mask[:, :-1]
    outside[:, :-1] |= ~mask[:, 1:]
    return mask & outside


def _match(true: NDArray[np.bool_], predicted: NDArray[np.bool_], tolerance: int) -> tuple[int, int, int, int]:
    """Count matched predicted pixels, predicted pixels, matched true pixels and true pixels of two outlines."""
    matched_predicted = int(np.count_nonzero(predicted & _near(true, tolerance)))
    matched_true = int(np.count_nonzero(true & _near(predicted, tolerance)))
    return matched_predicted, int(np.count_nonzero(predicted)), matched_true, int(np.count_nonzero(true))


def _near(mask: NDArray[np.bool_], tolerance: int) -> NDArray[np.bool_]:
    """Mark the pixels at most `tolerance` pixels (Euclidean) from the mask."""
    if not mask.any():
        return np.zeros(mask.shape, bool)
    distance = cv2.distanceTransform(1 - mask.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return np.asarray(distance <= tolerance + 1e-4)
