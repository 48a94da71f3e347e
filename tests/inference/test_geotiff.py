"""GeoTIFF in and out: coordinates, nodata, bands, scale, the windows of the tiler, polygons on the map."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from atrous import AtrousError, Segmenter
from atrous.imaging.geotiff import GeoImage, is_georeferenced
from atrous.inference.formats.polygons import trace_polygons
from atrous.inference.geotiff import GeoOptions, segment_geotiff
from atrous.marks import Mark, read_mark
from tests.inference.networks import ChannelNetwork, SmallNetwork, letter_card, noise, rgb_card, waves

rasterio = pytest.importorskip("rasterio")
features = pytest.importorskip("rasterio.features")
ORIGIN = (399960.0, 5100060.0)


def _write(path: Path, bands: np.ndarray, **profile: Any) -> Path:
    """Write bands (C, H, W) as a GeoTIFF in UTM 33, half a meter per pixel."""
    options: dict[str, Any] = {
        "driver": "GTiff",
        "count": len(bands),
        "height": bands.shape[1],
        "width": bands.shape[2],
        "dtype": bands.dtype,
        "crs": "EPSG:32633",
        "transform": rasterio.transform.from_origin(*ORIGIN, 0.5, 0.5),
    }
    with rasterio.open(path, "w", **{**options, **profile}) as file:
        file.write(bands)
    return path


def _segmenter(tile: int = 64, **options: Any) -> Segmenter:
    return Segmenter(ChannelNetwork(), rgb_card(**options), device="cpu", tile=tile)


def _rgb(height: int, width: int) -> np.ndarray:
    """Blocks of red, green and blue, as bands."""
    strongest = np.add.outer(np.arange(height) // 20, np.arange(width) // 30) % 3
    return (np.arange(3)[:, None, None] == strongest).astype(np.uint8) * 200


def test_labels_keep_the_coordinates(tmp_path: Path) -> None:
    bands = _rgb(150, 210)
    source, target = _write(tmp_path / "a.tif", bands), tmp_path / "out" / "a.tif"
    result = segment_geotiff(_segmenter(), source, {"geotiff": target}, mark=Mark("predict", {"state": "1f"}))
    assert result.size == (150, 210)
    assert sum(result.class_fractions.values()) == pytest.approx(1)
    with rasterio.open(source) as image, rasterio.open(target) as labels:
        assert (labels.crs, labels.transform, labels.bounds) == (image.crs, image.transform, image.bounds)
        assert labels.xy(0, 0) == (399960.25, 5100059.75)
        assert labels.xy(149, 209) == (400064.75, 5099985.25)
        np.testing.assert_array_equal(labels.read(1), bands.argmax(0))
        assert labels.nodata == 255
        assert labels.colormap(1)[1] == (0, 255, 0, 255)
        assert labels.profile["tiled"]
        assert labels.profile["compress"] == "deflate"
        assert json.loads(labels.tags()["classes"]) == ["red", "green", "blue"]
    assert read_mark(target) == Mark("predict", {"state": "1f"})
    assert is_georeferenced(target)
    assert Image.open(target).mode == "P"


@pytest.mark.parametrize("align_corners", [False, True])
def test_windows_are_those_of_the_tiler(tmp_path: Path, align_corners: bool) -> None:
    pixels = noise(300, 420)
    source = _write(tmp_path / "a.tif", pixels.transpose(2, 0, 1))
    segmenter = Segmenter(SmallNetwork(align_corners), letter_card(align_corners), device="cpu", tile=128)
    targets = {"geotiff": tmp_path / "b.tif", "geojson": tmp_path / "b.geojson"}
    segment_geotiff(segmenter, source, targets)
    expected = segmenter(pixels).labels
    with rasterio.open(tmp_path / "b.tif") as labels:
        np.testing.assert_array_equal(labels.read(1), expected)
    written = json.loads((tmp_path / "b.geojson").read_text())["features"]
    assert [feature["properties"]["label"] for feature in written] == trace_polygons(expected, 5).labels.tolist()


def test_polygons_are_in_the_coordinates_of_the_map(tmp_path: Path) -> None:
    bands = _rgb(150, 210)
    bands[:, 40:60, 70:90] = 0  # without data
    source = _write(tmp_path / "a.tif", bands, nodata=0)
    targets = {"geotiff": tmp_path / "b.tif", "geojson": tmp_path / "b.geojson"}
    with rasterio.open(source) as image:
        invalid = image.dataset_mask() == 0
        transform = image.transform
    segment_geotiff(_segmenter(), source, targets)
    with rasterio.open(tmp_path / "b.tif") as file:
        labels = file.read(1)
    np.testing.assert_array_equal(labels == 255, invalid)
    collection = json.loads((tmp_path / "b.geojson").read_text())
    assert collection["crs"]["properties"]["name"] == "urn:ogc:def:crs:EPSG::32633"
    assert read_mark(tmp_path / "b.geojson") == Mark("predict")
    shapes = [(feature["geometry"], feature["properties"]["label"]) for feature in collection["features"]]
    drawn = features.rasterize(shapes, labels.shape, fill=255, transform=transform)
    np.testing.assert_array_equal(drawn, labels)
    left, top = map(min, zip(*(p for g, _ in shapes for p in g["coordinates"][0]), strict=True))
    right, bottom = map(max, zip(*(p for g, _ in shapes for p in g["coordinates"][0]), strict=True))
    assert (left, bottom) == ORIGIN
    assert (right, top) == (ORIGIN[0] + 105, ORIGIN[1] - 75)


def test_longitude_and_latitude(tmp_path: Path) -> None:
    source = _write(tmp_path / "a.tif", _rgb(60, 90))
    segment_geotiff(_segmenter(), source, {"geojson": tmp_path / "a.geojson"}, GeoOptions(wgs84=True, simplify=0.5))
    collection = json.loads((tmp_path / "a.geojson").read_text())
    assert "crs" not in collection
    points = [tuple(p) for f in collection["features"] for ring in f["geometry"]["coordinates"] for p in ring]
    (x,), (y,) = rasterio.warp.transform("EPSG:32633", "EPSG:4326", [ORIGIN[0]], [ORIGIN[1]])
    assert min(np.hypot(a - x, b - y) for a, b in points) < 1e-9
    for feature in collection["features"]:
        a, b = np.array(feature["geometry"]["coordinates"][0]).T
        assert np.sum(a[:-1] * b[1:] - a[1:] * b[:-1]) > 0  # counterclockwise
    corners = {point for point in points if points.count(point) > 2}
    assert len(corners) > 3  # neighbors share their vertices
    source = _write(tmp_path / "b.tif", _rgb(60, 90), crs=None)
    with pytest.raises(AtrousError, match="names no coordinate system; leave out --wgs84"):
        segment_geotiff(_segmenter(), source, {"geojson": tmp_path / "b.geojson"}, GeoOptions(wgs84=True))
    assert not (tmp_path / "b.geojson").exists()
    segment_geotiff(_segmenter(), source, {"geojson": tmp_path / "b.geojson"})
    assert "crs" not in json.loads((tmp_path / "b.geojson").read_text())


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_ground_control_points(tmp_path: Path) -> None:
    bands = _rgb(60, 90)
    corners = [(0, 0), (0, 90), (60, 0), (60, 90), (30, 45)]
    points = [
        rasterio.control.GroundControlPoint(row, column, ORIGIN[0] + column / 2, ORIGIN[1] - row / 2)
        for row, column in corners
    ]
    source = _write(tmp_path / "a.tif", bands, crs=None, transform=None)
    with rasterio.open(source, "r+") as file:
        file.gcps = (points, "EPSG:32633")
    assert is_georeferenced(source)
    targets = {"geotiff": tmp_path / "b.tif", "geojson": tmp_path / "b.geojson"}
    segment_geotiff(_segmenter(), source, targets)
    with rasterio.open(tmp_path / "b.tif") as file:
        kept, crs = file.gcps
    assert crs == "EPSG:32633"
    assert [(p.row, p.col, p.x, p.y) for p in kept] == [(p.row, p.col, p.x, p.y) for p in points]
    located = _write(tmp_path / "c.tif", bands)
    segment_geotiff(_segmenter(), located, {"geojson": tmp_path / "c.geojson"})
    found, expected = (json.loads((tmp_path / f"{name}.geojson").read_text()) for name in "bc")
    assert found["crs"] == expected["crs"]
    assert len(found["features"]) == len(expected["features"])
    for ours, theirs in zip(found["features"], expected["features"], strict=True):
        np.testing.assert_allclose(
            ours["geometry"]["coordinates"][0], theirs["geometry"]["coordinates"][0], rtol=0, atol=1e-3
        )
    segment_geotiff(_segmenter(), source, targets, GeoOptions(wgs84=True))
    x, y = json.loads((tmp_path / "b.geojson").read_text())["features"][0]["geometry"]["coordinates"][0][0]
    assert 13 < x < 14
    assert 46 < y < 47


def test_palettes(tmp_path: Path) -> None:
    source = _write(tmp_path / "a.tif", np.arange(4, dtype=np.uint8).reshape(1, 2, 2), nodata=3)
    with rasterio.open(source, "r+") as file:
        file.write_colormap(1, {0: (255, 0, 0, 255), 1: (0, 255, 0, 255), 2: (0, 0, 255, 255)})
    with GeoImage(source, fill=(9, 9, 9)) as image:
        assert image[0:2, 0:2].tolist() == [[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [9, 9, 9]]]
    with GeoImage(source, bands=(1,)) as image:  # the values, if a band is asked for
        assert image[0:1, 0:2].tolist() == [[[0, 0, 0], [1, 1, 1]]]


def test_bands_and_scale(tmp_path: Path) -> None:
    values = np.stack([np.full((40, 50), value, np.uint16) for value in (0, 1000, 2000, 9000)])
    values[0, 0, :25] = 3000
    values[:, 1, 0] = 9000  # without data
    source = _write(tmp_path / "a.tif", values, nodata=9000)
    with GeoImage(source, bands=(3, 2, 1), scale=(1000, 2000), fill=(1, 2, 3)) as image:
        assert image.shape == (40, 50, 3)
        assert image[0:1, 24:26].tolist() == [[[255, 0, 255], [255, 0, 0]]]
        assert image[30:90, 40:90].shape == (10, 10, 3)
    with GeoImage(source, bands=(4,), fill=(1, 2, 3)) as image:
        assert image[0:2, 0:1].tolist() == [[[0, 0, 0]], [[1, 2, 3]]]  # all of one value
        assert image.valid(0, 3)[:, 0].tolist() == [True, False, True]
    for options, message in (
        ({"bands": (5,)}, "bands 5; expected one band, or three for red, green and blue, from 1 to 4"),
        ({"bands": (1, 2)}, "expected one band, or three"),
        ({"scale": (5.0, 5.0)}, "expected the lower value first"),
    ):
        with pytest.raises(AtrousError, match=message):
            GeoImage(source, **options)


def test_other_types_are_scaled_by_percentiles(tmp_path: Path) -> None:
    ramp = np.linspace(100, 10100, 101 * 50).reshape(50, 101)
    for dtype in (np.uint16, np.int16, np.float32):
        values = np.stack([ramp.astype(dtype)] * 3)
        if dtype == np.float32:
            values[:, 0, 0] = np.nan
        with GeoImage(_write(tmp_path / "a.tif", values)) as image:
            (low, high), *_ = image.ranges
            assert low == pytest.approx(300, abs=5)
            assert high == pytest.approx(9900, abs=5)
            pixels = image[0:50, 0:101]
        assert pixels[0].max() == 0
        assert pixels[-1, -1].min() == 255
        assert int(pixels[25, 50, 0]) == pytest.approx((ramp[25, 50] - low) / (high - low) * 255, abs=1)


def test_alpha_and_named_bands(tmp_path: Path) -> None:
    values = np.stack([np.full((20, 30), value, np.uint8) for value in (10, 20, 30, 255)])
    values[3, :, :7] = 0
    with rasterio.open(_write(tmp_path / "a.tif", values), "r+") as file:
        names = rasterio.enums.ColorInterp
        file.colorinterp = (names.blue, names.green, names.red, names.alpha)
    with GeoImage(tmp_path / "a.tif", fill=(9, 9, 9)) as image:
        pixels = image[0:20, 0:30]
    assert (pixels[:, :7] == 9).all()
    assert (pixels[:, 7:] == [30, 20, 10]).all()


def test_damaged_and_other_files(tmp_path: Path) -> None:
    source = _write(tmp_path / "a.tif", waves(300, 400).transpose(2, 0, 1), compress="deflate")
    content = source.read_bytes()
    source.write_bytes(content[: len(content) // 2])
    target = tmp_path / "b.tif"
    with pytest.raises(AtrousError, match=r"a\.tif: "):
        segment_geotiff(_segmenter(), source, {"geotiff": target})
    source.write_text("no image")
    assert not is_georeferenced(source)
    with pytest.raises(AtrousError, match=r"a\.tif: rasterio cannot read this file"):
        segment_geotiff(_segmenter(), source, {"geotiff": target})
    with pytest.raises(AtrousError, match="have the formats geotiff, geojson, not coco"):
        segment_geotiff(_segmenter(), source, {"coco": target})
    assert not target.exists()
    Image.fromarray(noise(20, 30)).save(tmp_path / "plain.tif")
    assert not is_georeferenced(tmp_path / "plain.tif")
    segment_geotiff(_segmenter(), tmp_path / "plain.tif", {"geotiff": target})  # of any size, without coordinates
    assert not is_georeferenced(target)
