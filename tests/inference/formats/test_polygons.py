"""Polygons cover the labels exactly, are valid, are the same in strips, and never overlap."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atrous.inference.formats.polygons import Polygons, PolygonTracer, join_holes, ring_areas, trace_polygons
from tests.inference.formats.maps import label_maps, smooth_map

features = pytest.importorskip("rasterio.features")


def _geometry(rings: list[np.ndarray], scale: int = 1) -> dict[str, object]:
    closed = [scale * np.concatenate([ring, ring[:1]]) for ring in rings]
    return {"type": "Polygon", "coordinates": [ring.tolist() for ring in closed]}


def _rasterize(polygons: Polygons, shape: tuple[int, ...]) -> np.ndarray:
    geometries = [(_geometry(rings), label) for label, rings in polygons]
    return features.rasterize(geometries, shape, fill=255) if geometries else np.full(shape, 255, np.uint8)


def _as_sets(polygons: Polygons) -> list[tuple[int, list[list[tuple[int, int]]]]]:
    """The polygons, wherever their rings begin and in whatever order their holes are."""
    return [
        (label, [sorted(map(tuple, rings[0].tolist())), *sorted(sorted(map(tuple, r.tolist())) for r in rings[1:])])
        for label, rings in polygons
    ]


def _check_rings(polygons: Polygons) -> None:
    areas = ring_areas(polygons.points, polygons.rings)
    outer = np.zeros(len(areas), bool)
    outer[polygons.polygons[:-1]] = True
    np.testing.assert_array_equal(areas > 0, outer)
    assert (areas != 0).all()
    for _, rings in polygons:
        for ring in rings:
            assert len(set(map(tuple, ring.tolist()))) == len(ring)  # touches itself nowhere


@given(label_maps())
@settings(max_examples=150, deadline=None)
def test_rasterio_draws_the_labels(case: tuple[np.ndarray, int]) -> None:
    labels, num_classes = case
    polygons = trace_polygons(labels, num_classes)
    _check_rings(polygons)
    np.testing.assert_array_equal(_rasterize(polygons, labels.shape), labels)
    for label in range(num_classes):
        assert polygons.areas()[polygons.labels == label].sum() == (labels == label).sum()
    regions = list(features.shapes(labels, mask=labels < 255, connectivity=4))
    assert sorted(value for _, value in regions) == sorted(polygons.labels.tolist())


@given(label_maps(), st.lists(st.integers(1, 5), min_size=12, max_size=12))
@settings(max_examples=150, deadline=None)
def test_strips_give_the_polygons_of_the_whole(case: tuple[np.ndarray, int], heights: list[int]) -> None:
    labels, num_classes = case
    for tolerance in (0.0, 1.2):
        tracer, top = PolygonTracer((labels.shape[0], labels.shape[1]), num_classes), 0
        for height in heights:
            if top < len(labels):
                tracer.add(labels[top : top + height])
                top += height
        whole = trace_polygons(labels, num_classes, keep_nodes=True)
        merged = tracer.finish(keep_nodes=True)
        assert _as_sets(merged) == _as_sets(whole)
        simplified = tracer.finish(simplify=tolerance)
        _check_rings(simplified)
        assert simplified.labels.tolist() == whole.labels.tolist()


@given(label_maps(ignored=False), st.sampled_from([0.5, 0.8, 1.5, 3.0, 50.0]))
@settings(max_examples=150, deadline=None)
def test_simplified_polygons_cover_the_image_without_overlap(case: tuple[np.ndarray, int], tolerance: float) -> None:
    labels, num_classes = case
    polygons = trace_polygons(labels, num_classes, simplify=tolerance)
    _check_rings(polygons)
    assert polygons.areas().sum() == pytest.approx(labels.size)
    exact = trace_polygons(labels, num_classes)
    assert polygons.labels.tolist() == exact.labels.tolist()
    assert np.diff(polygons.polygons).tolist() == np.diff(exact.polygons).tolist()  # no hole is lost
    cover = np.zeros(tuple(8 * side for side in labels.shape), int)
    for _, rings in polygons:
        cover += features.rasterize([_geometry(rings, 8)], cover.shape)
    assert (cover == 1).all()


def test_simplification_keeps_the_tolerance() -> None:
    labels = smooth_map(150, 200, 4)
    exact, simple = trace_polygons(labels, 4), trace_polygons(labels, 4, simplify=1.0)
    assert len(simple.points) < len(exact.points) / 2
    moved = (_rasterize(simple, labels.shape) != labels).mean()
    assert 0 < moved < 0.05
    assert set(map(tuple, simple.points.tolist())) <= set(
        map(tuple, trace_polygons(labels, 4, keep_nodes=True).points.tolist())
    )


@given(label_maps())
@settings(max_examples=100, deadline=None)
def test_slits_lead_into_holes(case: tuple[np.ndarray, int]) -> None:
    labels, num_classes = case
    for tolerance in (0.0, 1.5):
        for _, rings in trace_polygons(labels, num_classes, simplify=tolerance):
            ring = join_holes(rings)
            offsets = np.array([0, len(ring)])
            total = sum(ring_areas(part, np.array([0, len(part)]))[0] for part in rings)
            assert ring_areas(ring, offsets)[0] == pytest.approx(total)


def test_a_ring_that_touches_itself_is_a_ring_with_a_hole() -> None:
    labels = np.array([[1, 1, 1, 0], [1, 0, 1, 0], [1, 1, 0, 0], [0, 0, 0, 0]], np.uint8)
    ((_, rings),) = [(label, rings) for label, rings in trace_polygons(labels, 2) if label == 1]
    assert len(rings) == 2
    assert {tuple(point) for point in rings[0].tolist()} & {tuple(point) for point in rings[1].tolist()} == {(2, 2)}


def test_ignored_pixels_have_no_polygons() -> None:
    polygons = trace_polygons(np.full((4, 5), 255, np.uint8), 21, simplify=1.0)
    assert len(polygons) == 0
    assert polygons.areas().shape == (0,)
    assert list(polygons) == []
