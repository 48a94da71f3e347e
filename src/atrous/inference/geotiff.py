"""Segment GeoTIFF files of any size: labels as a GeoTIFF, polygons as GeoJSON in the coordinates of the map.

Windows of the image are read, segmented, blended and written one row of windows after the other.
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from atrous.card import Card
from atrous.errors import AtrousError
from atrous.files import writing
from atrous.imaging.geotiff import GeoImage, import_rasterio
from atrous.imaging.labels import Color, count_labels, fractions_of_counts, label_dtype
from atrous.inference.formats.format import PREDICTED, FormatOptions
from atrous.inference.formats.geojson import Projection, polygon_features
from atrous.inference.formats.polygons import Polygons, PolygonTracer
from atrous.marks import Mark, SealedWriter

if TYPE_CHECKING:
    from atrous.inference.segmenter import Segmenter

GEO_SUFFIXES = {"geotiff": ".tif", "geojson": ".geojson"}
"""The formats of georeferenced images, and the suffixes of their files."""
BLOCK = 256
"""The sides of the blocks in a written GeoTIFF."""
WGS84 = 4326
"""The EPSG code of longitude and latitude, the coordinates of GeoJSON by RFC 7946."""


@dataclass(frozen=True)
class GeoOptions:
    """Options of georeferenced images.

    `bands` and `scale` are those of `GeoImage`, `simplify` that of `FormatOptions`. `wgs84` converts the coordinates of
    GeoJSON to longitude and latitude, as RFC 7946 asks for; otherwise they are those of the file.
    """

    bands: tuple[int, ...] | None = None
    scale: tuple[float, float] | None = None
    simplify: float = 0.0
    wgs84: bool = False

    def __post_init__(self) -> None:
        FormatOptions(simplify=self.simplify)  # checks it


class GeoSegmentation(NamedTuple):
    """The result of a georeferenced image: its height and width, and the fractions of the classes."""

    size: tuple[int, int]
    class_fractions: dict[str, float]


def segment_geotiff(
    segmenter: Segmenter,
    source: str | os.PathLike[str],
    targets: Mapping[str, str | os.PathLike[str]],
    options: GeoOptions | None = None,
    *,
    mark: Mark = PREDICTED,
) -> GeoSegmentation:
    """Segment a georeferenced image in windows, and write labels and polygons to `targets`, by their formats.

    The formats are `geotiff`, a palette TIFF with the coordinates of the image, in which pixels without data are 255
    (65535 above 255 classes), its nodata value; and `geojson`, see `GeoOptions`. Memory does not grow with the height
    of the image; with the width, only the scores of one row of windows do. Polygons take memory for their corners.

    Raises: `AtrousError` without rasterio, for a file that it cannot read, and for other formats.
    """
    options, source = options or GeoOptions(), Path(source)
    for name in targets:
        if name not in GEO_SUFFIXES:
            raise AtrousError(f"{source}: georeferenced images have the formats {', '.join(GEO_SUFFIXES)}, not {name}.")
    card = segmenter.card
    ignored = 255 if len(card.classes) <= 255 else 65535
    dtype = label_dtype(len(card.classes), ignored)
    counts = np.zeros(65536, np.int64)
    with ExitStack() as stack:
        image = stack.enter_context(GeoImage(source, bands=options.bands, scale=options.scale, fill=_mean_color(card)))
        height, width = image.shape[:2]
        tracer = PolygonTracer((height, width), len(card.classes)) if "geojson" in targets else None
        file = None
        if "geotiff" in targets:
            file = stack.enter_context(_label_file(Path(targets["geotiff"]), image, card, np.dtype(dtype), mark))
        for top, strip in segmenter.segment_strips(image):
            labels = strip.astype(dtype, copy=False)
            labels[~image.valid(top, top + len(labels))] = ignored
            if file is not None:
                file.write(labels, 1, window=((top, top + len(labels)), (0, width)))
            if tracer is not None:
                tracer.add(labels)
            part = count_labels(labels)
            counts[: len(part)] += part
        if tracer is not None:
            polygons = tracer.finish(simplify=options.simplify, keep_nodes=options.wgs84)
            _write_features(Path(targets["geojson"]), polygons, image, card, options, mark)
    return GeoSegmentation((height, width), fractions_of_counts(counts, card.classes))


def _mean_color(card: Card) -> Color:
    """The color that is zero for the network."""
    red, green, blue = np.rint(card.preprocessing.mean).clip(0, 255).astype(int).tolist()
    return (red, green, blue) if card.preprocessing.channel_order == "RGB" else (blue, green, red)


@contextmanager
def _label_file(target: Path, image: GeoImage, card: Card, dtype: np.dtype[Any], mark: Mark) -> Iterator[Any]:
    """Open a GeoTIFF for labels, with the coordinates of an image and the colors of the classes."""
    rasterio, ignored = import_rasterio(), np.iinfo(dtype).max
    profile = {
        "driver": "GTiff",
        "height": image.shape[0],
        "width": image.shape[1],
        "count": 1,
        "dtype": dtype,
        "nodata": ignored,
        "crs": image.crs,
        **({"gcps": image.gcps} if image.gcps else {}),
        "transform": None if image.dataset.transform.is_identity else image.dataset.transform,
        "tiled": True,
        "blockxsize": BLOCK,
        "blockysize": BLOCK,
        "compress": "deflate",
        "bigtiff": "if_safer",
    }
    with writing(target) as temporary:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
                with rasterio.open(temporary, "w", **profile) as file:
                    if dtype == np.uint8:
                        colors = {label: (*color, 255) for label, color in enumerate(card.colors)}
                        file.write_colormap(1, {**colors, int(ignored): (0, 0, 0, 0)})
                    file.update_tags(classes=json.dumps(card.classes), input_ranges=json.dumps(image.ranges))
                    yield file
        except rasterio.errors.RasterioError as error:
            raise AtrousError(f"Cannot write {target}: {error}. Free disk space, then try again.") from error
        mark.append_to(temporary)


def _write_features(
    target: Path, polygons: Polygons, image: GeoImage, card: Card, options: GeoOptions, mark: Mark
) -> None:
    """Write polygons as GeoJSON in the coordinates of an image, one feature in memory at a time."""
    project, crs = _projection(image, wgs84=options.wgs84)
    header: dict[str, Any] = {"type": "FeatureCollection", "name": target.stem}
    if crs is not None:
        header["crs"] = {"type": "name", "properties": {"name": crs}}
    with writing(target) as temporary, temporary.open("wb") as binary:
        file = SealedWriter(binary, mark)
        file.write(f'{json.dumps(header)[:-1]}, "features": [')
        for number, feature in enumerate(polygon_features(polygons, card.classes, card.colors, project)):
            file.write(f"{',' if number else ''}\n{json.dumps(feature, separators=(',', ':'))}")
        file.finish(f'\n], "software": {json.dumps(str(mark))}}}\n')


def _projection(image: GeoImage, *, wgs84: bool) -> tuple[Projection, str | None]:
    """Make the projection from pixels to the coordinates of GeoJSON, and name their system; WGS 84 needs no name.

    Raises: `AtrousError` for WGS 84 where the system of the image is unknown.
    """
    from rasterio.transform import GCPTransformer

    transform, system = image.dataset.transform, image.crs
    code = system.to_epsg() if system else None

    def to_map(points: NDArray[np.int64]) -> NDArray[np.float64]:
        x, y = points.T
        if image.gcps:
            with GCPTransformer(image.gcps) as transformer:
                return np.stack(transformer.xy(y, x, offset="ul"), 1)
        return np.stack(
            [transform.a * x + transform.b * y + transform.c, transform.d * x + transform.e * y + transform.f], 1
        )

    def to_wgs84(points: NDArray[np.int64]) -> NDArray[np.float64]:
        from rasterio.warp import transform as convert

        return np.stack(convert(system, f"EPSG:{WGS84}", *to_map(points).T), 1)

    if wgs84 and not system:
        raise AtrousError(f"{image.dataset.name}: the file names no coordinate system; leave out --wgs84.")
    if not system or code == WGS84:
        return to_map, None
    if wgs84:
        return to_wgs84, None
    return to_map, f"urn:ogc:def:crs:EPSG::{code}" if code else system.to_wkt()
