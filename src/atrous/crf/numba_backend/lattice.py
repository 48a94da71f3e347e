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

from atrous.crf.lattice_geometry import (
    blur_rounds,
    embedding_scale,
    group_strides,
    key_steps,
    key_strides,
    slice_factor,
)
from atrous.crf.numba_backend import filter_jit, lattice_jit, link_jit
from atrous.crf.numba_backend.simd import lanes_of, panel_width
from atrous.crf.numba_backend.threads import chunk_count, run_parallel, thread_count
from atrous.crf.validation import Array, checked_features
from atrous.errors import AtrousError

BUCKET = 2048  # vertices whose values stay in a core's cache through a round of the blur


@dataclass(frozen=True)
class Lattice:
    """One or more permutohedral lattices over the same points, for the compiled filter.

    The corners of all kernels lie side by side: point i has `corner_rows[i, columns[k]:columns[k + 1]]` in kernel k.
    The rows of a bucket's vertices are followed by the copies of them that bands of points need to splat in parallel.
    The blur is a number of rounds, each of units that threads claim: a bucket of vertices, blurred along some axes.
    """

    corner_rows: npt.NDArray[np.int32]  # (points, corners): the row of each corner's vertex
    barycentric: npt.NDArray[np.float32]  # (points, corners): barycentric weights
    columns: npt.NDArray[np.int64]  # (kernels + 1,): the first column of each kernel
    bounds: npt.NDArray[np.int64]  # (bands + 1,): the first point of each band
    copies: npt.NDArray[np.int64]  # (buckets, 2): the first and the last row, the latter excluded, of copies
    owners: npt.NDArray[np.int32]  # (rows,): of each copy, the row of its vertex
    runs: npt.NDArray[np.int32]  # runs of neighbors
    segments: npt.NDArray[np.int64]  # (segments, 2): where in `runs` those of one bucket along one axis lie
    units: npt.NDArray[np.int64]  # (units + 1,): the first segment of each unit
    rounds: npt.NDArray[np.int64]  # (rounds + 1,): the first unit of each round
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
        built: list[_KernelLattice] = []
        for column, each in zip(columns, kernels, strict=False):
            row = sum(kernel.num_rows for kernel in built)
            built.append(_build_kernel(each, bounds, corner_rows, barycentric, int(column), row))
        runs, segments, units, rounds = _blur_schedule(built)
        return cls(
            corner_rows, barycentric, columns, bounds,
            np.concatenate([kernel.copies for kernel in built]), np.concatenate([kernel.owners for kernel in built]),
            runs, segments, units, rounds,
            sum(kernel.num_rows for kernel in built), sum(kernel.num_vertices for kernel in built),
        )  # fmt: skip

    @classmethod
    def empty(cls, points: int) -> Lattice:
        """Make the lattice of a CRF without pairwise terms."""
        rows, starts, pairs = np.empty(0, np.int32), np.zeros(1, np.int64), np.empty((0, 2), np.int64)
        corners = np.empty((points, 0), np.int32)
        return cls(corners, corners.astype(np.float32), starts, starts, pairs, rows, rows, pairs, starts, starts, 0, 0)

    @property
    def num_points(self) -> int:
        """The number of points, most often pixels, that are filtered."""
        return len(self.corner_rows)

    @property
    def num_kernels(self) -> int:
        """The number of kernels whose lattices it holds."""
        return len(self.columns) - 1

    @property
    def arrays(self) -> tuple[Array, ...]:
        """The arrays that the functions of `filter_jit` take as `lattice`."""
        return (
            self.corner_rows, self.columns, self.bounds, self.copies, self.owners,
            self.runs, self.segments, self.units, self.rounds,
        )  # fmt: skip

    @property
    def stages(self) -> int:
        """The number of stages of filtering one panel: those of `filter_jit.splat_and_blur`, and a slice."""
        return 5 + len(self.rounds) - 1

    def dimension(self, kernel: int) -> int:
        """Return the number of features d of a kernel."""
        return int(self.columns[kernel + 1] - self.columns[kernel]) - 1

    def empty_vertex_values(self, width: int) -> npt.NDArray[np.float32]:
        """Allocate the vertex values of one panel, uninitialized."""
        return np.empty((self.num_rows, width), np.float32)

    def row_sums(self) -> npt.NDArray[np.float32]:
        """Compute K 1 of every kernel, (kernels, points)."""
        sums = np.empty((self.num_kernels, self.num_points), np.float32)
        ones = np.ones((1, 1, self.num_points, 1), np.float32)
        run_parallel(
            self.num_points, self.stages, filter_jit.row_sums,
            self.arrays, self.barycentric, self._slice_factors(1, 1), np.zeros(self.num_kernels, np.int64),
            ones, self.empty_vertex_values(1), lanes_of(1), sums,
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
        count, width = panel_width(channels)
        panels = np.zeros((1, count, self.num_points, width), np.float32)
        for k in range(channels):
            panels[0, k // width, :, k % width] = values[:, k]
        class_weights = self._slice_factors(count, width)
        vertex_values, source_index = self.empty_vertex_values(width), np.zeros(self.num_kernels, np.int64)
        for panel in range(panels.shape[1]):
            run_parallel(
                self.num_points, self.stages, filter_jit.filter_panel,
                self.arrays, self.barycentric, class_weights, source_index, panels, panel, reverse, vertex_values,
                lanes_of(width), panels[0, panel],
            )  # fmt: skip
        return panels[0].transpose(1, 0, 2).reshape(self.num_points, -1)[:, :channels]

    def _slice_factors(self, panels: int, width: int) -> npt.NDArray[np.float32]:
        """Return the slice factor of each kernel for every class of every panel, (kernels, panels, width)."""
        factors = np.array([slice_factor(self.dimension(kernel)) for kernel in range(self.num_kernels)], np.float32)
        return np.repeat(factors, panels * width).reshape(self.num_kernels, panels, width)


@dataclass(frozen=True)
class _KernelLattice:
    num_rows: int
    num_vertices: int
    copies: npt.NDArray[np.int64]
    owners: npt.NDArray[np.int32]
    rounds: list[tuple[npt.NDArray[np.int32], npt.NDArray[np.int64]]]  # runs, and segments (buckets, axes, 2)


def _build_kernel(
    features: npt.NDArray[np.float32], bounds: Array, corner_rows: Array, barycentric: Array, column: int,
    first_row: int,
) -> _KernelLattice:  # fmt: skip
    """Embed and number one kernel's lattice; see `lattice_jit`.

    Scratch has the largest possible length and is mostly never touched.
    """
    points, d = features.shape
    lows, highs = np.empty((2, chunk_count(points), d), np.float32)
    run_parallel(points, 1, lattice_jit.feature_ranges, features, lows, highs)
    lowest, highest = lows.min(0), highs.max(0)
    if not (np.isfinite(lowest).all() and np.isfinite(highest).all()):
        raise AtrousError("features hold NaN or infinity; expected finite numbers: check them and their sigmas.")
    strides, most = key_strides(lowest, highest), points * (d + 1)
    steps, keys, groups = key_steps(strides), np.empty(most, np.int64), np.empty((len(blur_rounds(d)), most), np.uint32)
    counts = np.zeros(len(bounds) - 1, np.int64)
    run_parallel(
        points, 1, lattice_jit.number_bands,
        features, embedding_scale(d), strides, steps, group_strides(d), bounds,
        corner_rows, barycentric, column, keys, groups, counts,
    )  # fmt: skip
    bands = bounds[:-1, None] * (d + 1) + np.stack([np.zeros_like(counts), counts], 1)
    rows = np.empty(most, np.int32)
    kernel = _link_kernel(points, keys, groups, bands, steps, first_row, rows)
    run_parallel(points, 1, link_jit.relabel_corners, bounds, d + 1, column, rows, corner_rows)
    return kernel


def _link_kernel(
    points: int, keys: Array, groups: Array, bands: Array, steps: Array, first_row: int, rows: Array
) -> _KernelLattice:
    """Merge the vertices of all bands and link neighbors; see `link_jit`."""
    axes, total = blur_rounds(len(steps) - 1), int((bands[:, 1] - bands[:, 0]).sum())
    buckets, order = -(-total // BUCKET), np.empty(len(rows), np.int32)
    starts, spans = np.empty((len(bands), buckets + 1), np.int64), np.empty((buckets, 2), np.int64)
    run_parallel(points, 1, link_jit.sort_bands, groups[-1], bands, order, starts)
    vertices, vertex_groups = np.empty(total, np.int64), np.empty((len(axes), total), np.uint32)
    owners, offsets = np.empty(total, np.int32), starts.sum(0)
    linked = [(np.empty(total * len(each), np.int32), np.empty((buckets, len(each), 2), np.int64)) for each in axes]
    run_parallel(
        points, 1, link_jit.merge_bands,
        keys, groups, bands, order, starts, offsets, first_row, steps[axes[-1]],
        rows, vertices, vertex_groups, owners, spans, *linked[-1],
    )  # fmt: skip
    for each, own_groups, (runs, segments) in zip(axes[:-1], vertex_groups, linked, strict=False):
        run_parallel(
            points, 2, link_jit.link_round,
            vertices, own_groups, spans, first_row, steps[each], order, starts[0], runs, segments,
        )  # fmt: skip
    copies = first_row + np.stack([spans[:, 1], offsets[1:]], 1)
    return _KernelLattice(total, int((spans[:, 1] - spans[:, 0]).sum()), copies, owners, linked)


def _blur_schedule(kernels: list[_KernelLattice]) -> tuple[Array, Array, Array, Array]:
    """Arrange the blur of all kernels: `runs`, `segments`, `units` and `rounds` of `Lattice`.

    Kernels do not depend on each other, so their first rounds are done together, then their second ones.
    """
    runs, segments, axes, rounds, offset = [], [], [], [0], 0
    for step in range(max(len(kernel.rounds) for kernel in kernels)):
        for kernel in kernels:
            if step < len(kernel.rounds):
                own, where = kernel.rounds[step]
                runs.append(own)
                segments.append(where.reshape(-1, 2) + offset)
                axes += [where.shape[1]] * len(where)
                offset += own.size
        rounds.append(len(axes))
    units = np.cumsum([0, *axes], dtype=np.int64)
    return np.concatenate(runs), np.concatenate(segments), units, np.array(rounds, np.int64)
