"""Pairwise terms of the drop-in: kinds of kernels and normalizations, and label compatibilities.

Source: github.com/lucasb-eyer/pydensecrf, `densecrf.pyx`, `pairwise.cpp`, `labelcompatibility.cpp`.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from numbers import Real
from typing import Any

import numpy as np

from atrous.crf.kernels import MatrixCompatibility, PottsCompatibility
from atrous.crf.validation import Array
from atrous.errors import AtrousError


class KernelType(IntEnum):
    """Shape of the feature transform that the original can learn.

    Its Python interface cannot train it, and it starts as the identity, so the three give the same result.
    """

    CONST_KERNEL = 0
    DIAG_KERNEL = 1
    FULL_KERNEL = 2


NormalizationType = IntEnum(
    "NormalizationType",
    {"NO_NORMALIZATION": 0, "NORMALIZE_BEFORE": 1, "NORMALIZE_AFTER": 2, "NORMALIZE_SYMMETRIC": 3},
)  # fmt: skip

CONST_KERNEL, DIAG_KERNEL, FULL_KERNEL = KernelType
NO_NORMALIZATION, NORMALIZE_BEFORE, NORMALIZE_AFTER, NORMALIZE_SYMMETRIC = NormalizationType


def scaled_compatibility(compat: Any, classes: int) -> Array:
    """Convert `compat` to the factors by which filtered marginals are added to the logits.

    A number is the weight of a Potts model, which rewards equal labels; a vector (the diagonal of mu) or a matrix is an
    energy, hence the sign. A matrix is made symmetric, as in the original.

    Raises: `AtrousError`, a `ValueError`, for an array of another shape, or of another type than float32.
    """
    if isinstance(compat, Real):
        return PottsCompatibility().scaled(float(compat), classes)
    array = np.asarray(compat)
    if isinstance(compat, np.ndarray) and array.ndim and array.dtype != np.float32:
        raise AtrousError(
            f"compat is an array of {array.dtype}, expected float32, as in pydensecrf: use compat.astype('float32')."
        )
    array = array.astype(np.float64)
    if array.ndim > 2:
        raise AtrousError("compat has more than 2 dimensions, expected a number, one per class, or a matrix.")
    if array.shape not in ((), (classes,), (classes, classes)):
        raise AtrousError(f"compat has shape {array.shape}, expected a number, ({classes},) or ({classes}, {classes}).")
    if array.ndim < 2:
        return PottsCompatibility().scaled(float(array) if array.ndim == 0 else -array, classes)
    return MatrixCompatibility((array + array.T) / 2).scaled(1.0, classes)


def checked_sigmas(name: str, value: float | Sequence[float], count: int) -> tuple[float, ...]:
    """Convert a standard deviation, or `count` of them, to a tuple.

    Raises: `AtrousError` for numbers that are not positive and finite.
    """
    sigmas = np.asarray(value, np.float32)
    if sigmas.shape not in ((), (1,), (count,)) or not (np.isfinite(sigmas).all() and (sigmas > 0).all()):
        raise AtrousError(f"{name} must be one positive number or {count} of them, found {value!r}.")
    return tuple(np.broadcast_to(sigmas, count).tolist())
