"""Trace the regions of a label map as polygons along the edges of pixels, whole or strip by strip.

A region is a connected component of one class: pixels that share a side. The polygons of a map cover its pixels
exactly: they neither overlap nor leave gaps, also after simplification. Rings are valid in the sense of OGC Simple
Features: a ring visits no vertex twice, and holes touch each other and the outer ring in single points at most.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from atrous.imaging.labels import Labels

Points: TypeAlias = NDArray[np.int64]
"""Corners of pixels: (N, 2), x and y."""

STRIP_PIXELS = 2**21
"""The number of pixels that are traced at a time, about."""


@dataclass(frozen=True)
class Polygons:
    """Polygons in the order of their first pixels, from top to bottom and from left to right.

    `points` (N, 2) are x and y in pixels, from the upper left corner of the image. Ring r consists of the points from
    `rings[r]` to `rings[r + 1]`, polygon p of the rings from `polygons[p]` to `polygons[p + 1]`: the outer ring first,
    then holes. Outer rings have a positive area by the shoelace formula (they run clockwise on the screen, where y
    points down), holes a negative one. `labels` (P,) are the labels of the polygons.
    """

    points: Points
    rings: NDArray[np.int64]
    polygons: NDArray[np.int64]
    labels: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)

    def __iter__(self) -> Iterator[tuple[int, list[Points]]]:
        """Iterate over the polygons: the label, and the rings (n, 2) without a repeated last point."""
        rings = np.split(self.points, self.rings[1:-1])
        for label, first, last in zip(self.labels.tolist(), self.polygons[:-1], self.polygons[1:], strict=True):
            yield label, rings[first:last]

    def areas(self) -> NDArray[np.float64]:
        """Compute the area of each polygon in pixels, without its holes.

        Shape: -> (P,).
        """
        return np.add.reduceat(ring_areas(self.points, self.rings), self.polygons[:-1]) if len(self) else np.zeros(0)


def trace_polygons(labels: Labels, num_classes: int, *, simplify: float = 0.0, keep_nodes: bool = False) -> Polygons:
    """Trace the regions of a label map as polygons; labels from `num_classes` on are ignored pixels.

    `simplify` is the tolerance in pixels by which borders may move, see `PolygonTracer.finish`.

    Shape: (H, W).
    """
    height, width = labels.shape
    tracer = PolygonTracer((height, width), num_classes)
    tracer.add(labels)
    return tracer.finish(simplify=simplify, keep_nodes=keep_nodes)


class PolygonTracer:
    """Trace polygons strip by strip, in memory that grows with the polygons, not with the image.

    `size` is the height and width of the image. `add` takes strips of rows from top to bottom; polygons that cross
    their borders are merged.
    """

    def __init__(self, size: tuple[int, int], num_classes: int) -> None:
        self._height, self._width = size
        self._num_classes = num_classes
        self._top = 0
        self._row = np.full(self._width + 2, -1, np.int32)  # the row above the next strip, and its components
        self._above = np.full(self._width, -1, np.int32)
        self._parent = np.zeros(0, np.int32)
        self._components = 0
        self._points: list[NDArray[np.int32]] = []
        self._kinds: list[NDArray[np.uint8]] = []
        self._pieces: list[NDArray[np.int64]] = []
        self._following: list[NDArray[np.int64]] = []
        self._links: list[tuple[NDArray[np.int64], NDArray[np.int64]]] = []
        self._count = self._used = 0
        self._tails = np.full(self._width + 1, -1, np.int64)  # pieces that cross the lower side, downward at each x
        self._heads = np.full(self._width + 1, -1, np.int64)  # and upward

    def add(self, labels: Labels) -> None:
        """Trace the next rows.

        Shape: (h, W).
        """
        rows = max(1, STRIP_PIXELS // self._width)
        for top in range(0, labels.shape[0], rows):
            self._trace(labels[top : top + rows])

    def _trace(self, labels: Labels) -> None:
        from atrous.inference.formats import polygon_kernels as kernels

        rows = labels.shape[0]
        first, last = self._top == 0, self._top + rows == self._height
        padded = np.full((rows + 2, self._width + 2), -1, np.int32)
        padded[0] = self._row
        padded[1:-1, 1:-1] = labels
        padded[padded >= self._num_classes] = -1
        ids = np.empty((rows, self._width), np.int32)
        parent = np.empty(self._components + ids.size, np.int32)
        parent[: self._components] = self._parent
        self._components = kernels.label_components(padded, self._above, parent, self._components, ids)
        self._parent = parent[: self._components].copy()
        capacity = kernels.count_corners(padded)
        points, kinds = np.empty((capacity, 2), np.int32), np.empty(capacity, np.uint8)
        pieces = np.empty((capacity // 4 + 2 * self._width + 4, 7), np.int64)
        count = kernels.trace_strip(padded, ids, self._above, first, last, points, kinds, pieces)
        self._keep(points, kinds, pieces[:count].copy())
        self._row, self._above = padded[rows].copy(), ids[-1].copy()
        self._top += rows

    def _keep(self, points: NDArray[np.int32], kinds: NDArray[np.uint8], pieces: NDArray[np.int64]) -> None:
        """Store the pieces of a strip, and link those that cross its upper side."""
        from atrous.inference.formats.polygon_kernels import BOTTOM, TOP

        used = int(pieces[-1, 0]) if len(pieces) else 0
        points = points[:used].copy()
        points[:, 1] += self._top
        numbers = self._count + np.arange(len(pieces))
        _, start, start_x, end, end_x, _, _ = pieces.T
        self._links.append((self._tails[start_x[start == TOP]], numbers[start == TOP]))
        self._links.append((numbers[end == TOP], self._heads[end_x[end == TOP]]))
        self._tails[end_x[end == BOTTOM]] = numbers[end == BOTTOM]
        self._heads[start_x[start == BOTTOM]] = numbers[start == BOTTOM]
        pieces[:, 0] += self._used
        self._points.append(points)
        self._kinds.append(kinds[:used].copy())
        self._pieces.append(pieces)
        self._count += len(pieces)
        self._used += used

    def finish(self, *, simplify: float = 0.0, keep_nodes: bool = False) -> Polygons:
        """Join the pieces, after the last strip.

        With a tolerance `simplify` in pixels, vertices are removed as long as no removed vertex is farther from the new
        border. Borders that two regions share are simplified once, and no border is made to cross another, so that
        polygons still do not overlap and cover the image. With `keep_nodes` a ring has a vertex wherever three regions
        meet, even on a straight line; neighbors then share their vertices in any projection.
        """
        from atrous.inference.formats import polygon_kernels as kernels

        points, kinds, offsets, components, labels = self._join()
        row_length = self._width + 2
        saddles = kinds == kernels.SADDLE
        if saddles.any():
            keys, inverse = np.unique(points[saddles, 1] * row_length + points[saddles, 0], return_inverse=True)
            vertex = np.full(len(points), -1)
            vertex[saddles] = inverse
            order, offsets, origin = kernels.split_rings(vertex, offsets, len(keys))
            points, kinds = points[order], kinds[order]
            components, labels = components[origin], labels[origin]
        if simplify > 0:
            keys, vertex = np.unique(points[:, 1] * row_length + points[:, 0], return_inverse=True)
            active = np.ones(len(keys), np.bool_)
            kernels.simplify_rings(points, offsets, kinds, vertex, keys, row_length, float(simplify), active)
            points, kinds, offsets = _select(points, kinds, offsets, active[vertex])
        bends = kernels.find_bends(points, offsets)
        points, kinds, offsets = _select(points, kinds, offsets, bends | (kinds > 0) if keep_nodes else bends)
        return _group(points, offsets, components, labels)

    def _join(self) -> tuple[Points, NDArray[np.uint8], NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Join pieces to rings: points, their kinds, offsets of the rings, and each ring's component and label."""
        from atrous.inference.formats import polygon_kernels as kernels

        pieces = np.concatenate(self._pieces)
        points, kinds = np.concatenate(self._points), np.concatenate(self._kinds)
        self._points = [points]  # there can be millions of points: free the parts
        following = np.arange(len(pieces))
        for before, after in self._links:
            following[before] = after
        order, starts = kernels.order_pieces(following)
        ends = pieces[:, 0]
        begins = np.concatenate([[0], ends[:-1]])
        lengths = (ends - begins)[order]
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        gather = np.arange(offsets[-1]) + np.repeat(begins[order] - offsets[:-1], lengths)
        first = order[starts[:-1]]
        roots = np.array([kernels.find(self._parent, index) for index in pieces[first, 5].tolist()], np.int64)
        return points[gather].astype(np.int64), kinds[gather], offsets[starts], roots, pieces[first, 6]


def ring_areas(points: Points, offsets: NDArray[np.int64]) -> NDArray[np.float64]:
    """Compute the signed area of each ring by the shoelace formula.

    Shape: (N, 2), (R + 1,) -> (R,).
    """
    if len(offsets) < 2:
        return np.zeros(0)
    x, y = points.T
    following = _following(offsets)
    return np.add.reduceat(x * y[following] - x[following] * y, offsets[:-1]) / 2


def _following(offsets: NDArray[np.int64]) -> NDArray[np.int64]:
    """The index of the next point of the same ring, for every point."""
    following = np.arange(1, offsets[-1] + 1)
    following[offsets[1:] - 1] = offsets[:-1]
    return following


def _select(
    points: Points, kinds: NDArray[np.uint8], offsets: NDArray[np.int64], kept: NDArray[np.bool_]
) -> tuple[Points, NDArray[np.uint8], NDArray[np.int64]]:
    """Keep some of the points, with offsets of the rings that remain from them."""
    return points[kept], kinds[kept], np.concatenate([[0], np.cumsum(kept)])[offsets]


def _group(
    points: Points, offsets: NDArray[np.int64], components: NDArray[np.int64], labels: NDArray[np.int64]
) -> Polygons:
    """Sort rings by component, outer rings first."""
    holes = ring_areas(points, offsets) < 0
    order = np.lexsort((holes, components))
    lengths = np.diff(offsets)[order]
    rings = np.concatenate([[0], np.cumsum(lengths)])
    gather = np.arange(rings[-1]) + np.repeat(offsets[:-1][order] - rings[:-1], lengths)
    outer = np.flatnonzero(~holes[order])
    return Polygons(points[gather], rings, np.append(outer, len(order)), labels[order][outer])


def join_holes(rings: list[Points]) -> NDArray[np.float64]:
    """Join the rings of a polygon to one, for formats without holes: slits of no width lead into the holes.

    Shape: each (n, 2) -> (N, 2).
    """
    if len(rings) == 1:
        return rings[0].astype(np.float64)
    from atrous.inference.formats import polygon_kernels as kernels

    holes = [np.roll(ring, -np.lexsort((ring[:, 1], ring[:, 0]))[0], axis=0) for ring in rings[1:]]
    holes.sort(key=lambda ring: (int(ring[0, 0]), int(ring[0, 1])))
    ordered = [rings[0], *holes]
    offsets = np.concatenate([[0], np.cumsum([len(ring) for ring in ordered])])
    return np.asarray(kernels.join_holes(np.concatenate(ordered).astype(np.float64), offsets))
