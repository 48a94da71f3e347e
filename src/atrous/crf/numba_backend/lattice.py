"""The permutohedral lattice on the CPU: Gaussian filtering of values at scattered points, in time linear in the points.

Points with d features are embedded in a lattice of d + 1 axes; values are *splatted* onto the corners of the simplex
around each point, *blurred* along each axis with weights (1/2, 1, 1/2), and *sliced* back with the same barycentric
weights, times 1 / (1 + 2^-d). The result approximates sum_j exp(-|f_i - f_j|^2 / 2) v_j, the term j = i included.

Source: Adams, Baek, Davis, "Fast High-Dimensional Filtering Using the Permutohedral Lattice", Eurographics 2010;
scaling, blur and slice factor as in Krähenbühl's code, which pydensecrf wraps.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from atrous.crf.lattice_geometry import embedding_scale, key_steps, key_strides, slice_factor
from atrous.crf.numba_backend import filter_jit, lattice_jit
from atrous.crf.numba_backend.simd import LANES
from atrous.crf.numba_backend.threads import chunk_count, run_parallel, thread_count
from atrous.crf.validation import Array, checked_features
from atrous.errors import AtrousError


@dataclass(frozen=True)
class Lattice:
    """One or more permutohedral lattices over the same points, for the compiled filter.

    The corners of all kernels lie side by side: point i has `corner_rows[i, columns[k]:columns[k + 1]]` in kernel k.
    The rows of a kernel's vertices are followed by the copies of them that bands of points need to splat in parallel.
    """

    corner_rows: npt.NDArray[np.int32]  # (points, corners): the row of each corner's vertex
    barycentric: npt.NDArray[np.float32]  # (points, corners): barycentric weights
    columns: npt.NDArray[np.int64]  # (kernels + 1,): the first column of each kernel
    bounds: npt.NDArray[np.int64]  # (bands + 1,): the first point of each band
    copies: npt.NDArray[np.int32]  # rows of copied vertices
    owners: npt.NDArray[np.int32]  # of each copy, the row of its vertex
    runs: npt.NDArray[np.int32]  # runs of neighbors, axis after axis, kernel after kernel
    axis_starts: npt.NDArray[np.int64]  # (axes + 1,): the first position of each axis in `runs`
    num_rows: int
    num_vertices: int

    @classmethod
    def build(cls, *features: Any) -> Lattice:
        """Build the lattices of one or more kernels.

        Shape: each of `features` (points, d), in units of the kernel's standard deviation; d may differ.
        Raises: `AtrousError` when they are empty, not finite, or differ in the number of points.
        """
        kernels = [checked_features(each) for each in features]
        if len({len(each) for each in kernels}) != 1:
            raise AtrousError(f"All kernels need the same number of points, found {[len(each) for each in kernels]}.")
        points = len(kernels[0])
        bands = thread_count(points)
        bounds = np.arange(bands + 1, dtype=np.int64) * points // bands
        columns = np.cumsum([0, *(each.shape[1] + 1 for each in kernels)], dtype=np.int64)
        corner_rows = np.empty((points, columns[-1]), np.int32)
        barycentric = np.empty((points, columns[-1]), np.float32)
        built, num_rows = [], 0
        for column, each in zip(columns, kernels, strict=False):
            built.append(_build_kernel(each, bounds, corner_rows, barycentric, int(column), num_rows))
            num_rows += built[-1].num_vertices + len(built[-1].owners)
        runs = [axis for kernel in built for axis in kernel.runs]
        return cls(
            corner_rows, barycentric, columns, bounds,
            np.concatenate([kernel.copies for kernel in built]), np.concatenate([kernel.owners for kernel in built]),
            np.concatenate(runs), np.cumsum([0, *(axis.size for axis in runs)], dtype=np.int64),
            num_rows, sum(kernel.num_vertices for kernel in built),
        )  # fmt: skip

    @classmethod
    def empty(cls, points: int) -> Lattice:
        """Make the lattice of a CRF without pairwise terms."""
        rows, starts = np.empty(0, np.int32), np.zeros(1, np.int64)
        corners = np.empty((points, 0), np.int32)
        return cls(corners, corners.astype(np.float32), starts, starts, rows, rows, rows, starts, 0, 0)

    @property
    def num_points(self) -> int:
        return len(self.corner_rows)

    @property
    def num_kernels(self) -> int:
        return len(self.columns) - 1

    @property
    def arrays(self) -> tuple[Array, ...]:
        """The arrays that the functions of `filter_jit` take as `lattice`."""
        return self.corner_rows, self.columns, self.bounds, self.copies, self.owners, self.runs, self.axis_starts

    @property
    def stages(self) -> int:
        """The number of stages of filtering one panel: those of `filter_jit.splat_and_blur`, and a slice."""
        return 5 + len(self.axis_starts) - 1

    def dimension(self, kernel: int) -> int:
        """Return the number of features d of a kernel."""
        return int(self.columns[kernel + 1] - self.columns[kernel]) - 1

    def empty_vertex_values(self) -> npt.NDArray[np.float32]:
        """Allocate the vertex values of one panel, uninitialized."""
        return np.empty((self.num_rows, LANES), np.float32)

    def row_sums(self) -> npt.NDArray[np.float32]:
        """Compute K 1 of every kernel, (kernels, points)."""
        sums = np.empty((self.num_kernels, self.num_points), np.float32)
        ones = np.ones((1, 1, self.num_points, LANES), np.float32)
        run_parallel(
            self.num_points, self.stages, filter_jit.row_sums,
            self.arrays, self.barycentric, self._slice_factors(panels=1), np.zeros(self.num_kernels, np.int64),
            ones, self.empty_vertex_values(), sums,
        )  # fmt: skip
        return sums

    def filter(self, values: Any, *, reverse: bool = False) -> npt.NDArray[np.float32]:
        """Compute K v, not normalized, all kernels added up; K^T v with `reverse`.

        Shape: values (points, channels); returns the same, float32.
        Raises: `AtrousError` when the number of points differs.
        """
        values = np.asarray(values, np.float32)
        if values.ndim != 2 or len(values) != self.num_points:
            raise AtrousError(f"values must have shape ({self.num_points}, channels), found {values.shape}.")
        channels = values.shape[1]
        panels = np.zeros((1, -(-channels // LANES), self.num_points, LANES), np.float32)
        for k in range(channels):
            panels[0, k // LANES, :, k % LANES] = values[:, k]
        class_weights = self._slice_factors(panels=panels.shape[1])
        vertex_values, source_index = self.empty_vertex_values(), np.zeros(self.num_kernels, np.int64)
        for panel in range(panels.shape[1]):
            run_parallel(
                self.num_points, self.stages, filter_jit.filter_panel,
                self.arrays, self.barycentric, class_weights, source_index, panels, panel, reverse, vertex_values,
                panels[0, panel],
            )  # fmt: skip
        return panels[0].transpose(1, 0, 2).reshape(self.num_points, -1)[:, :channels]

    def _slice_factors(self, panels: int) -> npt.NDArray[np.float32]:
        """Return the slice factor of each kernel for every class of every panel, (kernels, panels, 8)."""
        factors = np.array([slice_factor(self.dimension(kernel)) for kernel in range(self.num_kernels)], np.float32)
        return np.repeat(factors, panels * LANES).reshape(self.num_kernels, -1, LANES)


@dataclass(frozen=True)
class _KernelLattice:
    num_vertices: int
    copies: npt.NDArray[np.int32]
    owners: npt.NDArray[np.int32]
    runs: list[npt.NDArray[np.int32]]


def _build_kernel(
    features: npt.NDArray[np.float32], bounds: Array, corner_rows: Array, barycentric: Array, column: int,
    first_row: int,
) -> _KernelLattice:  # fmt: skip
    """Embed, number and link one kernel's lattice; see `lattice_jit`.

    Scratch arrays have the largest possible length and are mostly never touched. They are numpy's because numpy asks
    the system for huge pages, which numba does not.
    """
    points, d = features.shape
    lows, highs = np.empty((2, chunk_count(points), d), np.float32)
    run_parallel(points, 1, lattice_jit.feature_ranges, features, lows, highs)
    lowest, highest = lows.min(0), highs.max(0)
    if not (np.isfinite(lowest).all() and np.isfinite(highest).all()):
        raise AtrousError("features hold NaN or infinity; expected finite numbers: check them and their sigmas.")
    strides = key_strides(lowest, highest)
    steps, most = key_steps(strides), points * (d + 1)
    memory, keys, vertices = np.empty((2 * most + 64, 2), np.int64), np.empty(most, np.int64), np.empty(most, np.int64)
    rows, owners = np.empty(most, np.int32), np.empty(most, np.int32)
    sizes = np.zeros(3 + len(bounds) - 1, np.int64)
    run_parallel(
        points, 3, lattice_jit.number_vertices,
        features, embedding_scale(d), strides, steps, bounds, corner_rows, barycentric, column, first_row,
        memory, keys, rows, vertices, owners, sizes,
    )  # fmt: skip
    count, copied, slots = (int(size) for size in sizes[:3])
    following, runs = np.empty((2, d + 1, count), np.int32)
    lengths = np.zeros(d + 1, np.int64)
    run_parallel(
        points, 2, lattice_jit.link_runs,
        vertices[:count], memory[:slots], steps, first_row, following, runs, lengths,
    )  # fmt: skip
    return _KernelLattice(
        count,
        np.arange(first_row + count, first_row + count + copied, dtype=np.int32),
        owners[:copied].copy(),
        [runs[axis, : lengths[axis]] for axis in range(d + 1)],
    )
