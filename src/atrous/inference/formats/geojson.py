"""GeoJSON: a polygon with holes for each region, in pixels or in the coordinates of a map.

Source: RFC 7946; Butler et al.: The GeoJSON Format Specification (2008), whose member `crs` RFC 7946 removed.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from atrous.imaging.labels import Color
from atrous.inference.formats.format import FormatOptions, Segmented
from atrous.inference.formats.polygons import Polygons, trace_polygons
from atrous.marks import Mark

Projection: TypeAlias = Callable[[NDArray[np.int64]], NDArray[Any]]
"""Map points in pixels to other coordinates: (N, 2) -> (N, 2)."""


def polygon_features(
    polygons: Polygons, classes: Sequence[str], colors: Sequence[Color], project: Projection | None = None
) -> Iterator[dict[str, Any]]:
    """Describe polygons as features with the properties `label`, `class`, `color`, and `pixels`, the area in pixels.

    Outer rings run counterclockwise and holes clockwise, where x points to the right and y up, as RFC 7946 asks for.
    """
    points = polygons.points if project is None else project(polygons.points)
    mirrored = project is not None and _is_mirrored(polygons, points)
    rings = np.split(points, polygons.rings[1:-1])
    for index, (label, area) in enumerate(zip(polygons.labels.tolist(), polygons.areas().tolist(), strict=True)):
        coordinates = []
        for ring in rings[polygons.polygons[index] : polygons.polygons[index + 1]]:
            closed = np.concatenate([ring, ring[:1]])
            coordinates.append((closed[::-1] if mirrored else closed).tolist())
        red, green, blue = colors[label]
        yield {
            "type": "Feature",
            "properties": {
                "label": label,
                "class": classes[label],
                "color": f"#{red:02x}{green:02x}{blue:02x}",
                "pixels": area,
            },
            "geometry": {"type": "Polygon", "coordinates": coordinates},
        }


def _is_mirrored(polygons: Polygons, points: NDArray[Any]) -> bool:
    """Tell whether a projection turns counterclockwise rings into clockwise ones, by the first outer ring."""
    if not len(polygons):
        return False
    x, y = points[: polygons.rings[1]].T
    x, y = x - x[0], y - y[0]
    return float(np.sum(x * np.roll(y, -1) - np.roll(x, -1) * y)) < 0


def geojson_collection(segmentation: Segmented, file_name: str, options: FormatOptions, mark: Mark) -> dict[str, Any]:
    """Describe the regions of a segmentation as a collection of features, in pixels from the upper left corner."""
    polygons = trace_polygons(segmentation.labels, len(segmentation.classes), simplify=options.simplify)
    features = list(polygon_features(polygons, segmentation.classes, segmentation.colors))
    return {"type": "FeatureCollection", "software": str(mark), "name": file_name, "features": features}


def encode_geojson(segmentation: Segmented, file_name: str, options: FormatOptions, mark: Mark) -> bytes:
    """Encode the regions of a segmentation as GeoJSON, in pixels from the upper left corner, y downward."""
    content = geojson_collection(segmentation, file_name, options, mark)
    return mark.seal(json.dumps(content, separators=(",", ":")).encode())
