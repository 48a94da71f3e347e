"""GeoJSON and labelme files: rings run as RFC 7946 says, and polygons are those of the labels."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest
from hypothesis import given, settings

from atrous import AtrousError
from atrous.inference.formats.geojson import polygon_features
from atrous.inference.formats.polygons import trace_polygons
from tests.inference.formats.maps import label_maps, segmentation_of, smooth_map


def _area(ring: list[list[float]]) -> float:
    assert ring[0] == ring[-1]
    x, y = np.array(ring).T
    return float(np.sum(x[:-1] * y[1:] - x[1:] * y[:-1]) / 2)


@given(label_maps())
@settings(max_examples=60, deadline=None)
def test_features_are_wound_as_rfc_7946_says(case: tuple[np.ndarray, int]) -> None:
    labels, num_classes = case
    collection = json.loads(segmentation_of(labels, num_classes).encode("geojson"))
    assert collection["type"] == "FeatureCollection"
    total = 0.0
    for feature in collection["features"]:
        areas = [_area(ring) for ring in feature["geometry"]["coordinates"]]
        assert areas[0] > 0
        assert all(area < 0 for area in areas[1:])
        assert feature["properties"]["pixels"] == sum(areas)
        assert feature["properties"]["class"] == f"class {feature['properties']['label']}"
        total += sum(areas)
    assert total == (labels < num_classes).sum()


def test_winding_follows_the_projection() -> None:
    polygons = trace_polygons(smooth_map(40, 60, 3), 3)

    def project(points: np.ndarray) -> np.ndarray:
        return points * [0.5, -0.5] + [4e5, 5e6]  # north is up

    for feature in polygon_features(polygons, ("a", "b", "c"), ((0, 0, 0),) * 3, project):
        areas = [_area(ring) for ring in feature["geometry"]["coordinates"]]
        assert areas[0] > 0
        assert sum(areas) == pytest.approx(feature["properties"]["pixels"] / 4, abs=1e-3)


def test_labelme_shapes_draw_the_labels() -> None:
    labels = smooth_map(60, 90, 3)
    labels[20:30, 20:30] = 255
    segmentation = segmentation_of(labels, 3)
    object.__setattr__(segmentation, "classes", ("background", "cat", "dog"))
    content = json.loads(segmentation.encode("labelme", file_name="../a.jpg"))
    assert (content["imageHeight"], content["imageWidth"], content["imagePath"]) == (60, 90, "../a.jpg")
    assert {shape["label"] for shape in content["shapes"]} == {"cat", "dog"}
    drawn = np.zeros((4 * 60, 4 * 90), np.uint8)
    for shape in content["shapes"]:
        # between the corners of pixels lie their centers, of which OpenCV draws those on the border too
        mask = np.zeros_like(drawn)
        cv2.fillPoly(mask, [np.rint(4 * np.array(shape["points"])).astype(np.int32)], 1)
        drawn[mask > 0] = segmentation.classes.index(shape["label"])
    expected = np.where(labels < 3, labels, 0)
    np.testing.assert_array_equal(drawn[2::4, 2::4], expected)


def test_a_tolerance_is_a_number_from_0() -> None:
    segmentation = segmentation_of(smooth_map(40, 60, 3), 3)
    for value in (-1.0, float("nan"), float("inf")):
        with pytest.raises(AtrousError, match="expected a tolerance in pixels"):
            segmentation.to_geojson(simplify=value)
    assert len(str(segmentation.to_geojson(simplify=2.0))) < len(str(segmentation.to_geojson()))
    assert segmentation.to_labelme()["shapes"]
