"""How good a segmentation is where it is hard: along the boundaries.

All figures are sums over the data set before they are ratios. Pixels whose truth is the ignored label count nowhere.
"""

from __future__ import annotations

import math

import cv2
import numba
import numpy as np
from numpy.typing import NDArray

from atrous.errors import AtrousError
from atrous.evaluation.confusion import ConfusionMatrix, mean, ratio
from atrous.imaging.labels import Labels

WIDEST = 40
"""The widest band of the papers' trimap curves, in pixels."""


class TrimapCurve:
    """Figures in bands around the boundaries of the truth, as a function of how wide the bands are.

    A pixel is in the band of width d if it is at most d pixels (Euclidean, between centers) from a boundary: from a
    pixel of another class beside it, or from an ignored one, with which PASCAL VOC draws its boundaries.

    Shape: `counts` (widest, K, K): of the pixels at a distance in (d - 1, d], for d = 1 ... `widest`.
    Source: Krähenbühl, Koltun 2011, section 6; DeepLab v1 section 5.2 and figure 6, v2 figure 10, v3+ section 4.3.
    """

    def __init__(self, classes: int, *, ignore_index: int = 255, widest: int = WIDEST) -> None:
        self.ignore_index = ignore_index
        self.counts: NDArray[np.int64] = np.zeros((widest, classes, classes), np.int64)

    def update(self, truth: Labels, prediction: Labels) -> None:
        """Count one image.

        Shape: both (H, W), holding classes, and the ignored label in the truth.
        """
        _count_bands(truth, prediction, distance_to_boundary(truth, self.ignore_index), self.ignore_index, self.counts)

    def within(self, width: int) -> ConfusionMatrix:
        """The confusion matrix of the band of a width from 1 to the widest."""
        if not 1 <= width <= len(self.counts):
            raise AtrousError(f"band {width}: it is 1 to {len(self.counts)} pixels wide.")
        matrix = ConfusionMatrix(self.counts.shape[1], ignore_index=self.ignore_index)
        matrix.counts = self.counts[:width].sum(0)
        return matrix

    def miou(self) -> list[float]:
        """The mIoU in bands of 1, 2, ... pixels."""
        return [self.within(width).miou for width in range(1, len(self.counts) + 1)]

    def pixel_accuracy(self) -> list[float]:
        """The pixel accuracy in bands of 1, 2, ... pixels."""
        return [self.within(width).pixel_accuracy for width in range(1, len(self.counts) + 1)]


def distance_to_boundary(truth: Labels, ignore_index: int) -> NDArray[np.float32]:
    """Pixels to the nearest boundary: 0 on it, infinite where an image has none.

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
def _count_bands(truth, prediction, distance, ignored, counts):  # type: ignore[no-untyped-def]
    widest = len(counts)
    for y in range(truth.shape[0]):
        for x in range(truth.shape[1]):
            if truth[y, x] != ignored and distance[y, x] <= widest:
                band = max(1, math.ceil(distance[y, x] - 1e-4))  # OpenCV's distances are right to 1e-5
                counts[band - 1, truth[y, x], prediction[y, x]] += 1


class BoundaryScores:
    """Boundary IoU and boundary F of each class.

    Boundary IoU: the IoU of the pixels of a class that are within d pixels of its outline, the image's border included,
    d being 2 % of the image's diagonal (distances of 8-connected steps, as by erosion with a 3 x 3 square).

    Boundary F: of the predicted outline the share within a tolerance of the true one (precision), of the true one the
    share within it of the predicted (recall), and their harmonic mean; the tolerance is 0.75 % of the diagonal.

    Ignored pixels are cut out of truth and prediction alike before outlines are drawn, so that both have an outline
    where a class meets them: inside the void that VOC draws around objects nothing is right or wrong.

    Shape: `counts` (7, K), int64: three of the one, four of the other.
    Source: Cheng, Girshick, Dollar, Berg, Kirillov: Boundary IoU, CVPR 2021, equation 2 and section 5; Csurka, Larlus,
    Perronnin: What is a good evaluation measure for semantic segmentation?, BMVC 2013 (there averaged over images).
    """

    width = 0.02
    tolerance = 0.0075

    def __init__(self, classes: int, *, ignore_index: int = 255) -> None:
        self.ignore_index = ignore_index
        self.counts: NDArray[np.int64] = np.zeros((7, classes), np.int64)

    def update(self, truth: Labels, prediction: Labels) -> None:
        """Count one image.

        Shape: both (H, W), holding classes, and the ignored label in the truth.
        """
        classes = self.counts.shape[1]
        diagonal = math.hypot(*truth.shape)
        void = truth == self.ignore_index
        true = np.where(void, classes, truth).astype(np.int32)
        found = np.where(void, classes, prediction).astype(np.int32)
        near = max(1, round(self.width * diagonal))
        in_true, in_found = _within_outline(true, near), _within_outline(found, near)
        both = in_true & in_found & (true == found)
        for row, labels in ((0, true[both]), (1, true[in_true]), (2, found[in_found])):
            self.counts[row] += np.bincount(labels, minlength=classes + 1)[:classes]
        reach = max(1, math.ceil(self.tolerance * diagonal))
        for label in np.union1d(np.unique(true), np.unique(found)):
            if label < classes:
                self.counts[3:, label] += _matched(_outline(true == label), _outline(found == label), reach)

    @property
    def iou(self) -> NDArray[np.float64]:
        """Boundary IoU of each class; NaN where there is none of it.

        Shape: (K,).
        """
        both, true, found = self.counts[:3]
        return ratio(both, true + found - both)

    @property
    def miou(self) -> float:
        """The mean of the classes' boundary IoU."""
        return mean(self.iou)

    @property
    def f(self) -> NDArray[np.float64]:
        """Boundary F of each class: 0 where nothing matches, NaN where neither truth nor prediction has an outline.

        Shape: (K,).
        """
        right, found, met, true = self.counts[3:].astype(np.float64)
        return ratio(2 * right * met, right * true + met * found, where=found + true > 0)

    @property
    def mean_f(self) -> float:
        """The mean of the classes' boundary F."""
        return mean(self.f)


def _within_outline(labels: NDArray[np.int32], width: int) -> NDArray[np.bool_]:
    """Pixels at most `width` steps from one of another class, or from beyond the image.

    The last pixel before another class is found from the nearest pixel that has an unequal one among its eight
    neighbors, whichever class it is of: none is nearer than the last pixel of one's own.

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
    """The pixels of a mask that have a neighbor (of four) outside it; the image's border is no neighbor."""
    outside = np.zeros(mask.shape, bool)
    outside[1:] |= ~mask[:-1]
    outside[:-1] |= ~mask[1:]
    outside[:, 1:] |= ~mask[:, :-1]
    outside[:, :-1] |= ~mask[:, 1:]
    return mask & outside


def _matched(true: NDArray[np.bool_], found: NDArray[np.bool_], reach: int) -> tuple[int, int, int, int]:
    """Found pixels near a true one, found pixels, true pixels near a found one, true pixels."""
    right = int(np.count_nonzero(found & _near(true, reach)))
    met = int(np.count_nonzero(true & _near(found, reach)))
    return right, int(np.count_nonzero(found)), met, int(np.count_nonzero(true))


def _near(mask: NDArray[np.bool_], reach: int) -> NDArray[np.bool_]:
    """Pixels at most `reach` pixels (Euclidean) from the mask."""
    if not mask.any():
        return np.zeros(mask.shape, bool)
    away = cv2.distanceTransform(1 - mask.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return np.asarray(away <= reach + 1e-4)
