"""The table of formats: names, options, and the encoders of raster formats."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from atrous import AtrousError
from atrous.imaging.probabilities import read_probabilities
from atrous.inference import Segmentation
from atrous.inference.formats import FORMATS, get_format, parse_formats
from atrous.marks import Mark, read_mark
from tests.inference.networks import BLUE, GREEN, quadrants


@pytest.fixture
def segmentation() -> Segmentation:
    pixels = quadrants(60, 80)
    return Segmentation(
        pixels, pixels.argmax(2).astype(np.uint8), ("background", "tree", "sky"), ((0, 0, 0), GREEN, BLUE)
    )


def test_lists_of_formats_are_parsed() -> None:
    assert parse_formats("png, overlay,png") == ("png", "overlay")
    with pytest.raises(AtrousError, match=r"Unknown format 'overlya': expected png, overlay, .*mean 'overlay'"):
        parse_formats("png,overlya")
    with pytest.raises(AtrousError, match="list of formats is empty"):
        parse_formats(" ,")


def test_names_and_paths_differ(tmp_path: Path) -> None:
    paths = [item.path(tmp_path / "a.b.png") for item in FORMATS.values()]
    assert len(set(paths)) == len(FORMATS)
    assert all(path.name.startswith("a.b") for path in paths)
    assert [item.name for item in FORMATS.values()] == list(FORMATS)


def test_a_palette_png_holds_the_labels(segmentation: Segmentation, tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(get_format("png").encode(segmentation, mark=Mark("predict", {"state": "1f"})))
    assert read_mark(path) == Mark("predict", {"state": "1f"})
    with Image.open(path) as image:
        assert image.mode == "P"
        np.testing.assert_array_equal(np.asarray(image), segmentation.labels)


def test_overlays_take_opacity_and_legend(segmentation: Segmentation) -> None:
    content = segmentation.encode("overlay", opacity=0.3, legend=False)
    with Image.open(io.BytesIO(content)) as image:
        np.testing.assert_array_equal(np.asarray(image), segmentation.overlay(opacity=0.3, legend=False))


def test_probabilities_are_encoded_if_there_are_some(segmentation: Segmentation, tmp_path: Path) -> None:
    with pytest.raises(AtrousError, match=r"segmenter\(image, probabilities=True\)"):
        segmentation.encode("npz")
    result = replace(segmentation, probabilities=np.full((3, 60, 80), 1 / 3, np.float32))
    (path,) = result.save(tmp_path / "a.npz", "npz")
    maps, classes, _ = read_probabilities(path)
    assert maps.shape == (3, 60, 80)
    assert classes == segmentation.classes


def test_the_suffix_is_that_of_the_format(segmentation: Segmentation, tmp_path: Path) -> None:
    assert segmentation.save(tmp_path / "b.png", "overlay", legend=False) == (tmp_path / "b.png",)
    with pytest.raises(AtrousError, match=r"files of the format npz end in \.npz"):
        segmentation.save(tmp_path / "a.json", "npz")
    assert [path.name for path in tmp_path.iterdir()] == ["b.png"]
