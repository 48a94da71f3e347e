"""Geometry of the permutohedral lattice, shared by both backends: scale of the embedding, slice factor, vertex keys.

Source: Adams, Baek, Davis, "Fast High-Dimensional Filtering Using the Permutohedral Lattice", Eurographics 2010;
scale and slice factor as in Krähenbühl's code, which pydensecrf wraps.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from atrous.crf.validation import Array


def slice_factor(d: int) -> float:
    """Return 1 / (1 + 2^-d), by which Krähenbühl's code multiplies sliced values."""
    return 1.0 / (1.0 + 2.0**-d)


def embedding_scale(d: int) -> npt.NDArray[np.float32]:
    """Return the scale of each feature before the rotation into the plane of the lattice (Adams et al., p. 5 and 6).

    The factor sqrt(2/3) (d + 1) makes the blur a Gaussian of standard deviation 1 in the units of the features.
    """
    deviation = np.float32(np.sqrt(2.0 / 3.0) * (d + 1))
    return np.array([1.0 / np.sqrt((i + 2.0) * (i + 1.0)) * deviation for i in range(d)], np.float32)


def key_strides(lowest: Array, highest: Array) -> npt.NDArray[np.int64]:
    """Compute strides for which `sum_i coordinate_i * stride_i` is a unique 64-bit key of a vertex near the features.

    A vertex of color r has coordinates (d + 1) c_i + r. Radices that are 1 modulo d + 1 make the strides' sum -1
    modulo d + 1, so that r follows from the key, and then the c_i, which need a range smaller by a factor d + 1 each.
    When even that does not fit in 62 bits (many features with wide ranges) the strides are fixed random odd numbers and
    the key is a linear hash: two of M vertices then share a key with probability below M^2 / 2^64.

    Shape: lowest, highest: (d,), the range of the features. Returns (d + 1,), the last one 0.
    """
    d = len(lowest)
    scale = embedding_scale(d).astype(np.float64)
    low, high = np.minimum(lowest * scale, highest * scale), np.maximum(lowest * scale, highest * scale)
    strides, stride, reach = [], 1, 0
    for i in range(d):  # y_i = sum of later components - i * own one
        own = (low[i - 1], high[i - 1]) if i else (0.0, 0.0)
        least = int((low[i:].sum() - i * own[1]) // (d + 1)) - 4  # corners and their neighbors lie within 3 (d + 1)
        most = int((high[i:].sum() - i * own[0]) // (d + 1)) + 4
        strides.append(stride)
        reach += max(abs(least), abs(most)) * (d + 1) * stride
        stride *= -(-(most - least) // (d + 1)) * (d + 1) + 1
    if max(reach, stride * (d + 1)) >= 2**62:
        return np.append(np.random.default_rng(2010).integers(-(2**62), 2**62, d) * 2 + 1, 0)
    return np.array([*strides, 0], np.int64)


def key_steps(strides: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Compute the change of the key from a vertex to its next neighbor along each axis.

    Such a step adds 1 to every coordinate but the axis' own, which falls by d.
    """
    with np.errstate(over="ignore"):
        return np.asarray(strides.sum() - len(strides) * strides, np.int64)


def blur_rounds(d: int) -> list[list[int]]:
    """Return the axes of the lattice in rounds of half of them each, in order; see `link_jit`."""
    size = max(1, (d + 1) // 2)
    return [list(range(first, min(first + size, d + 1))) for first in range(0, d + 1, size)]


def group_strides(d: int) -> npt.NDArray[np.int64]:
    """Compute strides for which `sum_i coordinate_i * stride_i` stays the same along the axes of a round.

    They are 0 for these axes and add up to 0; the others are random. Shape: returns (rounds, d + 1).
    """
    rounds = blur_rounds(d)
    strides = np.random.default_rng(2010).integers(-(2**40), 2**40, (len(rounds), d + 1))
    for own, axes in zip(strides, rounds, strict=True):
        own[axes] = 0
        own[0 if axes[0] else -1] -= own.sum()
    return strides
