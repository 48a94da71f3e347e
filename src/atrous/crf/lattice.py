"""The permutohedral lattice: Gaussian filtering of values at scattered points, in time linear in the points.

Points with d features are embedded in a lattice of d + 1 axes; values are *splatted* onto the corners of the simplex
around each point, *blurred* along each axis with weights (1/2, 1, 1/2), and *sliced* back with the same barycentric
weights, times 1 / (1 + 2^-d). The result approximates sum_j exp(-|f_i - f_j|^2 / 2) v_j, the term j = i included.

*Source:* Adams, Baek, Davis, "Fast High-Dimensional Filtering Using the Permutohedral Lattice", Eurographics 2010;
scaling, blur, slice factor and normalisation as in Krähenbühl's code, which pydensecrf wraps.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import numpy as np
import numpy.typing as npt

from atrous.errors import AtrousError

Array = npt.NDArray[Any]
LANES = 8
_one_at_a_time = threading.RLock()


@contextmanager
def kernels_running(points: int) -> Iterator[None]:
    """Enter numba's parallel kernels: one Python thread at a time, with no more threads than `points` keep busy.

    numba's portable threading layer may be entered by one thread only, and waking threads for a small image costs more
    than they save.
    """
    from numba import get_num_threads, set_num_threads

    with _one_at_a_time:
        before = get_num_threads()
        set_num_threads(max(1, min(before, points // 4096)))
        try:
            yield
        finally:
            set_num_threads(before)


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

    A vertex of colour r has coordinates (d + 1) c_i + r. Radices that are 1 modulo d + 1 make the strides' sum -1
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
        least = int((low[i:].sum() - i * own[1]) // (d + 1)) - 4  # corners and their neighbours lie within 3 (d + 1)
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

    The corners of all kernels lie side by side: point i has `offsets[i, columns[k]:columns[k + 1]]` in kernel k. Rows
    of vertices are followed, kernel by kernel, by the copies that bands of points need to splat in parallel.
    """

    offsets: npt.NDArray[np.int32]  # (points, corners): row of each corner
    weights: npt.NDArray[np.float32]  # (points, corners): barycentric coordinates
    columns: npt.NDArray[np.int64]  # (kernels + 1,)
    bounds: npt.NDArray[np.int64]  # (bands + 1,): points of a band
    chains: tuple[tuple[npt.NDArray[np.int32], ...], ...]  # per kernel, per axis: runs of neighbours
    copies: npt.NDArray[np.int32]
    owners: npt.NDArray[np.int32]
    rows: int
    vertices: int

    @classmethod
    def build(cls, *features: Any) -> Lattice:
        """Build the lattices of one or more kernels.

        *Shape:* each of `features` (points, d), in units of the kernel's standard deviation; d may differ.

        *Raises:* `AtrousError` when they are empty, not finite, or differ in the number of points.
        """
        kernels = [checked_features(each) for each in features]
        if len({len(each) for each in kernels}) != 1:
            raise AtrousError(f"all kernels need the same number of points, found {[len(each) for each in kernels]}")
        with kernels_running(len(kernels[0])):
            return cls._build(kernels)

    @classmethod
    def _build(cls, kernels: list[npt.NDArray[np.float32]]) -> Lattice:
        from numba import get_num_threads

        from atrous.crf.lattice_numba import link_runs, number_vertices, ranges

        points, bands = len(kernels[0]), get_num_threads()
        bounds = np.arange(bands + 1, dtype=np.int64) * points // bands
        columns = np.cumsum([0, *(each.shape[1] + 1 for each in kernels)], dtype=np.int64)
        offsets = np.empty((points, columns[-1]), np.int32)
        weights = np.empty((points, columns[-1]), np.float32)
        chains, copies, owners, rows, vertices = [], [], [], 0, 0
        for column, each in zip(columns, kernels, strict=False):
            lowest, highest = ranges(each, 16)
            if not (np.isfinite(lowest).all() and np.isfinite(highest).all()):
                raise AtrousError("features hold NaN or infinity; expected finite numbers: check them and their sigmas")
            strides = key_strides(lowest, highest)
            steps = key_steps(strides)
            scale = embedding_scale(each.shape[1])
            memory = np.empty((2 * points * len(steps) + 64, 2), np.int64)  # numpy asks for huge pages, numba does not
            keys, table, behind = number_vertices(
                each, scale, strides, steps, bounds, offsets, weights, column, rows, memory
            )
            after, runs = np.empty((2, len(steps), len(keys)), np.int32)
            used = link_runs(keys, table, steps, rows, after, runs)
            chains.append(tuple(runs[axis, : used[axis]] for axis in range(len(steps))))
            copies.append(np.arange(rows + len(keys), rows + len(keys) + len(behind), dtype=np.int32))
            owners.append(behind)
            rows += len(keys) + len(behind)
            vertices += len(keys)
        return cls(
            offsets, weights, columns, bounds, tuple(chains),
            np.concatenate(copies), np.concatenate(owners), rows, vertices,
        )  # fmt: skip

    @property
    def points(self) -> int:
        return len(self.offsets)

    @property
    def kernels(self) -> int:
        return len(self.chains)

    def dimension(self, kernel: int) -> int:
        return len(self.chains[kernel]) - 1

    def empty_rows(self) -> npt.NDArray[np.float32]:
        """Room for one panel of vertex values."""
        return np.empty((self.rows, LANES), np.float32)

    def splat_and_blur(
        self, sources: Sequence[tuple[int, int, Array]], send: Array, rows: Array, weights: Array, reverse: bool = False
    ) -> None:
        """Fill `rows` from panels of values: kernels begin..end of each `(begin, end, (points, 8))` in `sources`.

        `send` (kernels, 8) multiplies the values for each kernel. `reverse` blurs the axes backwards: the transpose.
        """
        from atrous.crf import filter_numba as numba_kernels

        parts = 4 * (len(self.bounds) - 1)
        numba_kernels.clear(rows, parts)
        for begin, end, values in sources:
            numba_kernels.splat_panel(
                values, send[begin:end], self.offsets, weights, self.columns[begin : end + 1], self.bounds, rows
            )
        numba_kernels.gather_copies(self.copies, self.owners, rows)
        for axes in self.chains:
            for chain in reversed(axes) if reverse else axes:
                if chain.size:
                    numba_kernels.blur_axis(chain, rows, parts)
        numba_kernels.spread_copies(self.copies, self.owners, rows)

    def row_sums(self) -> npt.NDArray[np.float32]:
        """K 1 of every kernel, (kernels, points)."""
        from atrous.crf.filter_numba import slice_panel

        rows, out = self.empty_rows(), np.ones((self.points, LANES), np.float32)
        send = np.ones((self.kernels, LANES), np.float32)
        self.splat_and_blur([(0, self.kernels, out)], send, rows, self.weights)
        sums = np.empty((self.kernels, self.points), np.float32)
        for kernel in range(self.kernels):
            slice_panel(self.offsets, self.weights, self.columns[kernel], self.columns[kernel + 1], rows, out)
            np.multiply(out[:, 0], np.float32(slice_factor(self.dimension(kernel))), out=sums[kernel])
        return sums

    def filter(self, values: Any, *, reverse: bool = False) -> npt.NDArray[np.float32]:
        """K v, not normalised, for a lattice of one kernel; the transpose of K with `reverse`.

        *Shape:* values (points, channels); returns the same, float32.

        *Raises:* `AtrousError` when the number of points differs or the lattice has several kernels.
        """
        from atrous.crf.filter_numba import slice_panel

        given = np.asarray(values, np.float32)
        if given.ndim != 2 or len(given) != self.points or self.kernels != 1:
            raise AtrousError(
                f"values must have shape ({self.points}, channels) and the lattice one kernel, "
                f"found {given.shape} and {self.kernels}"
            )
        out = np.empty_like(given, order="C")
        rows, panel = self.empty_rows(), np.zeros((self.points, LANES), np.float32)
        send = np.full((1, LANES), slice_factor(self.dimension(0)), np.float32)
        with kernels_running(self.points):
            for first in range(0, given.shape[1], LANES):
                width = min(LANES, given.shape[1] - first)
                panel[:, :width] = given[:, first : first + width]
                self.splat_and_blur([(0, 1, panel)], send, rows, self.weights, reverse)
                slice_panel(self.offsets, self.weights, 0, self.columns[1], rows, panel)
                out[:, first : first + width] = panel[:, :width]
        return out
