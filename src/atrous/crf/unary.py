"""Unaries from labels, for annotations in place of a network."""

from __future__ import annotations

from typing import Any

import numpy as np

from atrous.crf.numba_backend.lattice import Array
from atrous.crf.validation import as_numpy
from atrous.errors import AtrousError


def probabilities_from_labels(labels: Any, num_classes: int, *, gt_prob: float = 0.7, unknown: int = 255) -> Array:
    """Probabilities (K, H, W) float32 for `dense_crf`: `gt_prob` for the label of a pixel, the rest shared equally.

    *Shape:* labels (H, W) integers in 0..num_classes - 1, or `unknown`, which gives every class the same probability.

    *Source:* `unary_from_labels` of pydensecrf, whose unknown label is 0 and whose classes count from 1.

    *Raises:* `AtrousError` for labels of another type or out of range, or a `gt_prob` not between 0 and 1.
    """
    found = as_numpy("labels", labels)
    if found.ndim != 2 or 0 in found.shape or not np.issubdtype(found.dtype, np.integer):
        raise AtrousError(f"labels are {found.dtype} of shape {found.shape}, expected integers of shape (H, W)")
    if not 0 < gt_prob < 1:
        raise AtrousError(f"gt_prob is {gt_prob}, expected between 0 and 1, both excluded")
    if num_classes < 2:
        raise AtrousError(f"num_classes is {num_classes}, expected at least 2: one class needs no CRF")
    known = found != unknown
    strange = known & ((found < 0) | (found >= num_classes))
    if strange.any():
        raise AtrousError(
            f"labels hold {sorted(int(v) for v in np.unique(found[strange]))[:5]}, expected 0..{num_classes - 1} or "
            f"{unknown} where unknown"
        )
    out = np.full((num_classes, *found.shape), (1 - gt_prob) / (num_classes - 1), np.float32)
    rows, columns = np.nonzero(known)
    out[found[known], rows, columns] = gt_prob
    out[:, ~known] = 1 / num_classes
    return out
