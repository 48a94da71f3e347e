"""Unaries from labels: class probabilities from annotations, in place of a network's."""

from __future__ import annotations

from typing import Any

import numpy as np

from atrous.crf.validation import Array, as_numpy
from atrous.errors import AtrousError


def probabilities_from_labels(labels: Any, num_classes: int, *, gt_prob: float = 0.7, unknown: int = 255) -> Array:
    """Convert labels to probabilities (K, H, W) float32: `gt_prob` for a pixel's label, the rest shared equally.

    Shape: labels (H, W) integers in 0..num_classes - 1, or `unknown`, which gives every class the same probability.
    Source: `unary_from_labels` of pydensecrf, whose unknown label is 0 and whose classes count from 1.
    Raises: `AtrousError` for labels of another type or out of range, or a `gt_prob` not between 0 and 1.
    """
    array = as_numpy("labels", labels)
    if array.ndim != 2 or 0 in array.shape or not np.issubdtype(array.dtype, np.integer):
        raise AtrousError(f"labels are {array.dtype} of shape {array.shape}, expected integers of shape (H, W).")
    if not 0 < gt_prob < 1:
        raise AtrousError(f"gt_prob is {gt_prob}, expected between 0 and 1, both excluded.")
    if num_classes < 2:
        raise AtrousError(f"num_classes is {num_classes}, expected at least 2: one class needs no CRF.")
    known = array != unknown
    invalid = known & ((array < 0) | (array >= num_classes))
    if invalid.any():
        raise AtrousError(
            f"labels hold {sorted(int(v) for v in np.unique(array[invalid]))[:5]}, expected 0..{num_classes - 1} or "
            f"{unknown} where unknown."
        )
    out = np.full((num_classes, *array.shape), (1 - gt_prob) / (num_classes - 1), np.float32)
    rows, columns = np.nonzero(known)
    out[array[known], rows, columns] = gt_prob
    out[:, ~known] = 1 / num_classes
    return out
