"""The permutohedral lattice: Gaussian filtering of values at scattered points, in time linear in the points.

Points with d features are embedded in a lattice of d + 1 axes; values are *splatted* onto the corners of the simplex
around each point, *blurred* along each axis with weights (1/2, 1, 1/2), and *sliced* back with the same barycentric
weights, times 1 / (1 + 2^-d). The result approximates sum_j exp(-|f_i - f_j|^2 / 2) v_j, the term j = i included.

*Source:* Adams, Baek, Davis, "Fast High-Dimensional Filtering Using the Permutohedral Lattice", Eurographics 2010;
scaling, blur, slice factor and normalization as in Krähenbühl's code, which pydensecrf wraps.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import numpy as np
import numpy.typing as npt

from atrous.errors import AtrousError

Array = npt.NDArray[Any]
LANES = 8


class Normalization(IntEnum):
    """Where a kernel K is divided by its row sums n = K 1; the numbers are pydensecrf's.

    `NONE` leaves K as it is (pydensecrf computes a mean norm here but never applies it), `BEFORE` gives K(v / n),
    `AFTER` K(v) / n, `SYMMETRIC` K(v / sqrt n) / sqrt n.
    """

    NONE = 0
    BEFORE = 1
    AFTER = 2
    SYMMETRIC = 3

    def factors(self, row_sums: Any) -> tuple[Any, Any]:
        """What to multiply values by before and after filtering, from the row sums (numpy or torch, any shape)."""
        one = row_sums * 0 + 1
        if self is Normalization.NONE:
            return one, one
        if self is Normalization.SYMMETRIC:
            root = 1 / (row_sums + 1e-20) ** 0.5
            return root, root
        inverse = 1 / (row_sums + 1e-20)
        return (inverse, one) if self is Normalization.BEFORE else (one, inverse)


def slice_factor(d: int) -> float:
    """1 / (1 + 2^-d), by which Krähenbühl's code multiplies what it slices."""
    return 1.0 / (1.0 + 2.0**-d)


def embedding_scale(d: int) -> npt.NDArray[np.float32]:
    """What each feature is multiplied by before it is rotated into the plane (Adams et al., p. 5 and 6).

    The factor sqrt(2/3) (d + 1) makes the blur a Gaussian of standard deviation 1 in the units of the features.
    """
    deviation = np.float32(np.sqrt(2.0 / 3.0) * (d + 1))
    return np.array([1.0 / np.sqrt((i + 2.0) * (i + 1.0)) * deviation for i in range(d)], np.float32)


def key_strides(lowest: Array, highest: Array) -> npt.NDArray[np.int64]:
    """Strides that make `sum_i coordinate_i * stride_i` a different 64-bit key for every vertex near the features.

    A vertex of color r has coordinates (d + 1) c_i + r. Radices that are 1 modulo d + 1 make the strides' sum -1
    modulo d + 1, so that the key tells r, and then the c_i, which need a factor d + 1 less room each. When even that
    does not fit in 62 bits (many features with wide ranges) the strides are fixed random odd numbers and the key is a
    linear hash: two of M vertices then share a key with probability below M^2 / 2^64.

    *Shape:* lowest, highest: (d,), the range of the features. Returns (d + 1,), the last one 0.
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
    """How the key changes from a vertex to the next one along each axis: +1 everywhere, -d on the axis itself."""
    with np.errstate(over="ignore"):
        return np.asarray(strides.sum() - len(strides) * strides, np.int64)


def checked_features(features: Any) -> npt.NDArray[np.float32]:
    """Features as float32, C-contiguous.

    *Raises:* `AtrousError` unless they are finite and of shape (points, d) with at least one of each.
    """
    found = np.ascontiguousarray(features, np.float32)
    if found.ndim != 2 or 0 in found.shape:
        raise AtrousError(f"features must have shape (points, d) with at least one of each, found {found.shape}")
    return found


@dataclass(frozen=True)
class Lattice:
    """One or more permutohedral lattices over the same points, built for the numba kernels.

    The corners of all kernels lie side by side: point i has `offsets[i, columns[k]:columns[k + 1]]` in kernel k. The
    rows of a kernel's vertices are followed by the copies of them that bands of points need to splat in parallel.
    """

    offsets: npt.NDArray[np.int32]  # (points, corners): row of each corner
    weights: npt.NDArray[np.float32]  # (points, corners): barycentric coordinates
    columns: npt.NDArray[np.int64]  # (kernels + 1,)
    bounds: npt.NDArray[np.int64]  # (bands + 1,): points of a band
    copies: npt.NDArray[np.int32]
    owners: npt.NDArray[np.int32]  # of each copy, the row of its vertex
    chain: npt.NDArray[np.int32]  # runs of neighbors, axis after axis, kernel after kernel
    starts: npt.NDArray[np.int64]  # (axes + 1,): where those of an axis begin in the chain
    rows: int
    vertices: int

    @classmethod
    def build(cls, *features: Any) -> Lattice:
        """Build the lattices of one or more kernels.

        *Shape:* each of `features` (points, d), in units of the kernel's standard deviation; d may differ.

        *Raises:* `AtrousError` when they are empty, not finite, or differ in the number of points.
        """
        from atrous.crf.numba_backend.threads import thread_count

        kernels = [checked_features(each) for each in features]
        if len({len(each) for each in kernels}) != 1:
            raise AtrousError(f"all kernels need the same number of points, found {[len(each) for each in kernels]}")
        points = len(kernels[0])
        bands = thread_count(points)
        bounds = np.arange(bands + 1, dtype=np.int64) * points // bands
        columns = np.cumsum([0, *(each.shape[1] + 1 for each in kernels)], dtype=np.int64)
        offsets = np.empty((points, columns[-1]), np.int32)
        weights = np.empty((points, columns[-1]), np.float32)
        parts, rows = [], 0
        for column, each in zip(columns, kernels, strict=False):
            parts.append(_build_one(each, bounds, offsets, weights, int(column), rows))
            rows += parts[-1].vertices + len(parts[-1].owners)
        chains = [chain for part in parts for chain in part.chains]
        return cls(
            offsets, weights, columns, bounds,
            np.concatenate([part.copies for part in parts]), np.concatenate([part.owners for part in parts]),
            np.concatenate(chains), np.cumsum([0, *(chain.size for chain in chains)], dtype=np.int64),
            rows, sum(part.vertices for part in parts),
        )  # fmt: skip

    @property
    def points(self) -> int:
        return len(self.offsets)

    @property
    def kernels(self) -> int:
        return len(self.columns) - 1

    @property
    def arrays(self) -> tuple[Array, ...]:
        """What the kernels of `filter_kernels` call a lattice."""
        return self.offsets, self.columns, self.bounds, self.copies, self.owners, self.chain, self.starts

    @property
    def stages(self) -> int:
        """How many stages one panel takes: those of `filter_kernels.filtered_rows`, and a slice."""
        return 5 + len(self.starts) - 1

    def dimension(self, kernel: int) -> int:
        return int(self.columns[kernel + 1] - self.columns[kernel]) - 1

    def _slice_factors(self) -> npt.NDArray[np.float32]:
        return np.array([slice_factor(self.dimension(kernel)) for kernel in range(self.kernels)], np.float32)

    def empty_rows(self) -> npt.NDArray[np.float32]:
        """Room for one panel of vertex values."""
        return np.empty((self.rows, LANES), np.float32)

    def row_sums(self) -> npt.NDArray[np.float32]:
        """K 1 of every kernel, (kernels, points)."""
        from atrous.crf.numba_backend import filter_kernels
        from atrous.crf.numba_backend.threads import together

        sums = np.empty((self.kernels, self.points), np.float32)
        factors = self._slice_factors()
        send = np.repeat(factors, LANES).reshape(self.kernels, 1, LANES)
        ones = np.ones((1, 1, self.points, LANES), np.float32)
        together(
            self.points, self.stages, filter_kernels.row_sums,
            self.arrays, self.weights, send, np.zeros(self.kernels, np.int64), ones, self.empty_rows(), sums,
        )  # fmt: skip
        return sums

    def filter(self, values: Any, *, reverse: bool = False) -> npt.NDArray[np.float32]:
        """K v, not normalized, all kernels added up; the transpose of K with `reverse`.

        *Shape:* values (points, channels); returns the same, float32.

        *Raises:* `AtrousError` when the number of points differs.
        """
        from atrous.crf.numba_backend import filter_kernels
        from atrous.crf.numba_backend.threads import together

        given = np.asarray(values, np.float32)
        if given.ndim != 2 or len(given) != self.points:
            raise AtrousError(f"values must have shape ({self.points}, channels), found {given.shape}")
        channels = given.shape[1]
        panels = np.zeros((1, -(-channels // LANES), self.points, LANES), np.float32)
        for k in range(channels):
            panels[0, k // LANES, :, k % LANES] = given[:, k]
        factors = self._slice_factors()
        send = np.repeat(factors, panels.shape[1] * LANES).reshape(self.kernels, -1, LANES)
        rows, sources = self.empty_rows(), np.zeros(self.kernels, np.int64)
        for panel in range(panels.shape[1]):
            together(
                self.points, self.stages, filter_kernels.filter_panel,
                self.arrays, self.weights, send, sources, panels, panel, reverse, rows, panels[0, panel],
            )  # fmt: skip
        return panels[0].transpose(1, 0, 2).reshape(self.points, -1)[:, :channels]


@dataclass(frozen=True)
class _OneKernel:
    vertices: int
    copies: npt.NDArray[np.int32]
    owners: npt.NDArray[np.int32]
    chains: list[npt.NDArray[np.int32]]


def _build_one(
    features: npt.NDArray[np.float32], bounds: Array, offsets: Array, weights: Array, column: int, first: int
) -> _OneKernel:
    """Embed, number and link one kernel's lattice; see `lattice_kernels`.

    Scratch is as long as could ever be needed and mostly never touched. It is numpy's because that asks the system for
    huge pages, which numba's does not.
    """
    from atrous.crf.numba_backend import lattice_kernels
    from atrous.crf.numba_backend.threads import parts_for, together

    points, d = features.shape
    lows, highs = np.empty((2, parts_for(points), d), np.float32)
    together(points, 1, lattice_kernels.ranges, features, lows, highs)
    lowest, highest = lows.min(0), highs.max(0)
    if not (np.isfinite(lowest).all() and np.isfinite(highest).all()):
        raise AtrousError("features hold NaN or infinity; expected finite numbers: check them and their sigmas")
    strides = key_strides(lowest, highest)
    steps, most = key_steps(strides), points * (d + 1)
    memory, keys, vertices = np.empty((2 * most + 64, 2), np.int64), np.empty(most, np.int64), np.empty(most, np.int64)
    rows, owners = np.empty(most, np.int32), np.empty(most, np.int32)
    sizes = np.zeros(3 + len(bounds) - 1, np.int64)
    together(
        points, 3, lattice_kernels.number_vertices,
        features, embedding_scale(d), strides, steps, bounds, offsets, weights, column, first,
        memory, keys, rows, vertices, owners, sizes,
    )  # fmt: skip
    count, copied, slots = (int(size) for size in sizes[:3])
    after, chains = np.empty((2, d + 1, count), np.int32)
    lengths = np.zeros(d + 1, np.int64)
    together(
        points, 2, lattice_kernels.link_runs, vertices[:count], memory[:slots], steps, first, after, chains, lengths
    )  # fmt: skip
    return _OneKernel(
        count,
        np.arange(first + count, first + count + copied, dtype=np.int32),
        owners[:copied].copy(),
        [chains[axis, : lengths[axis]] for axis in range(d + 1)],
    )
