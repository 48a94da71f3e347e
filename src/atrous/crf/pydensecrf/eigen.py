"""`pydensecrf.eigen`: the arrays of the original's C++ library, here NumPy arrays of float32.

Source: github.com/lucasb-eyer/pydensecrf, `eigen.pyx`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from atrous.errors import AtrousError

# ruff: noqa: N802 (the names of the original)


class VectorXf(np.ndarray):
    """A vector of float32; `VectorXf()` is empty."""

    def __new__(cls) -> VectorXf:
        return np.empty(0, np.float32).view(cls)


class MatrixXf(np.ndarray):
    """A matrix of float32, column by column in memory; `MatrixXf()` is empty."""

    def __new__(cls) -> MatrixXf:
        return np.empty((0, 0), np.float32).view(cls)


def vectorXf(arr: Any) -> VectorXf:
    """Copy a vector of float32.

    Raises: `AtrousError` for another type or number of dimensions.
    """
    return _checked(arr, 1).copy().view(VectorXf)


def matrixXf(arr: Any) -> MatrixXf:
    """Copy a matrix of float32.

    Raises: `AtrousError` for another type or number of dimensions.
    """
    return np.array(_checked(arr, 2), order="F").view(MatrixXf)


def _checked(value: Any, dimensions: int) -> np.ndarray:
    array = np.asarray(value)
    if array.ndim != dimensions:
        raise AtrousError(f"The array has {array.ndim} dimensions, expected {dimensions}.")
    if array.dtype != np.float32:
        raise AtrousError(f"The array is {array.dtype}, expected float32: convert it by .astype('float32').")
    return array
