"""Masks that number the objects of an image, and the weight map that makes a network separate touching ones.

Source: Ronneberger, Fischer, Brox: U-Net, MICCAI 2015, section 3.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from atrous.errors import AtrousError
from atrous.imaging.labels import HasMask, Labels, label_dtype, read_raw_mask

BACKGROUND, OBJECT = 0, 1
"""The labels of masks that number objects."""

NEGLIGIBLE = 1e-7
"""Weights below this fraction of `w0` are 0, so that each object is measured in its surroundings alone."""


@dataclass(frozen=True)
class InstanceReader:
    """Reads masks whose values number the objects: 0 is background, `ignored` values are ignored, others are objects.

    The labels are 0 for the background and 1 for objects. Where two objects touch, the pixels on both sides of their
    border become background, so that the labels separate them, too.
    """

    ignored: tuple[int, ...] = ()
    ignore_index: int = 255

    def __call__(self, item: HasMask) -> Labels:
        instances, ignored = self._read(item)
        labels = (separate(instances) > 0).astype(label_dtype(2, self.ignore_index))
        labels[ignored] = self.ignore_index
        return labels

    def instances(self, item: HasMask) -> NDArray[np.int32]:
        """Read the numbers of the objects, 0 for the background, ignored pixels and the borders of touching objects.

        Shape: -> (H, W).
        Raises: `AtrousError` for a mask that is not readable, or in color.
        """
        return separate(self._read(item)[0])

    def _read(self, item: HasMask) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
        """Read the numbers of the objects, 0 for ignored pixels, too, and tell which those are."""
        path = item.mask
        assert path is not None
        stored = read_raw_mask(path)
        if stored.ndim != 2:
            raise AtrousError(
                f"{path}: this mask is in color; expected a gray or palette image whose values number the objects. "
                "Save it with 8 or 16 bits per pixel."
            )
        instances = stored.astype(np.int32)
        ignored = np.isin(instances, self.ignored)
        instances[ignored] = BACKGROUND
        return instances, ignored


def separate(instances: NDArray[np.int32]) -> NDArray[np.int32]:
    """Turn the pixels of objects next to another object, also diagonally, into background.

    Shape: (H, W) -> (H, W).
    """
    values = instances.astype(np.float32)  # exact up to 2^24; OpenCV dilates no integers of 32 bits
    kernel = np.ones((3, 3), np.uint8)
    highest = cv2.dilate(values, kernel)
    lowest = cv2.erode(np.where(values > 0, values, np.float32(np.inf)), kernel)  # of objects alone
    return np.where((instances > 0) & (highest > lowest), BACKGROUND, instances).astype(np.int32)


def border_weights(instances: NDArray[np.int32], w0: float = 10.0, sigma: float = 5.0) -> NDArray[np.float32]:
    """Compute the weights of background pixels between objects: `w0 * exp(-(d1 + d2)^2 / (2 sigma^2))`.

    d1 and d2 are the exact Euclidean distances, in pixels, to the nearest and to the second nearest object. This is
    the second term of the paper's weight map; the first, the weights of the classes, belongs to the loss. Pixels of
    objects get 0, as the map of figure 3 shows.

    Shape: (H, W), 0 for the background -> (H, W).
    Source: equation 2; w0 = 10 and sigma = 5 pixels as in the paper.
    """
    reach = math.ceil(sigma * math.sqrt(-2 * math.log(NEGLIGIBLE)))
    nearest = np.full(instances.shape, np.inf, np.float32)
    second = nearest.copy()
    for number in np.unique(instances[instances > 0]):
        rows, columns = np.nonzero(instances == number)
        window = (
            slice(max(0, rows.min() - reach), rows.max() + reach + 1),
            slice(max(0, columns.min() - reach), columns.max() + reach + 1),
        )
        outside = (instances[window] != number).astype(np.uint8)
        distance = cv2.distanceTransform(outside, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
        distance = np.sqrt(np.rint(distance**2))  # squares are integers; OpenCV's last bit differs from run to run
        second[window] = np.minimum(second[window], np.maximum(nearest[window], distance))
        nearest[window] = np.minimum(nearest[window], distance)
    weights = w0 * np.exp(-((nearest + second) ** 2) / (2 * sigma**2))
    weights[(instances > 0) | (weights < NEGLIGIBLE * w0)] = 0
    return weights.astype(np.float32)
