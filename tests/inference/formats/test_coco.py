"""COCO files: pycocotools loads them, and run lengths and polygons decode to the labels."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools.coco import COCO

from atrous import AtrousError
from atrous.inference.formats.coco import merge_coco
from atrous.marks import Mark
from tests.inference.formats.maps import label_maps, segmentation_of, smooth_map


def _load(dataset: dict[str, Any]) -> COCO:
    coco = COCO()
    coco.dataset = dataset
    with contextlib.redirect_stdout(io.StringIO()):
        coco.createIndex()
    return coco


def _decode(coco: COCO, image_id: int = 1) -> np.ndarray:
    """Paint all annotations of an image; a pixel of two of them would be an error."""
    image = coco.loadImgs(image_id)[0]
    labels = np.full((image["height"], image["width"]), 255, np.uint8)
    for annotation in coco.loadAnns(coco.getAnnIds(imgIds=[image_id])):
        mask = coco.annToMask(annotation).astype(bool)
        assert (labels[mask] == 255).all()
        assert annotation["area"] == mask.sum()
        rows, columns = np.nonzero(mask.any(1))[0], np.nonzero(mask.any(0))[0]
        box = [columns[0], rows[0], columns[-1] - columns[0] + 1, rows[-1] - rows[0] + 1]
        assert annotation["bbox"] == [int(value) for value in box]
        labels[mask] = annotation["category_id"]
    return labels


@given(label_maps(), st.booleans())
@settings(max_examples=150, deadline=None)
def test_pycocotools_decodes_the_labels(case: tuple[np.ndarray, int], polygons: bool) -> None:
    labels, num_classes = case
    dataset = json.loads(segmentation_of(labels, num_classes).encode("coco", polygons=polygons))
    np.testing.assert_array_equal(_decode(_load(dataset)), labels)


@pytest.mark.parametrize("polygons", [False, True])
def test_a_photograph_sized_map(polygons: bool) -> None:
    labels = smooth_map(375, 500, 21)
    labels[100:140, 50:60] = 255
    dataset = segmentation_of(labels, 21).to_coco(file_name="a.jpg", polygons=polygons)
    np.testing.assert_array_equal(_decode(_load(dataset)), labels)
    assert dataset["images"] == [{"id": 1, "file_name": "a.jpg", "width": 500, "height": 375}]
    assert [category["id"] for category in dataset["categories"]] == list(range(21))
    assert isinstance(dataset["annotations"][0]["segmentation"], list) is polygons


def test_simplified_polygons_have_fewer_points_and_nearly_the_same_pixels() -> None:
    labels = smooth_map(200, 300, 5)
    exact, simple = (segmentation_of(labels, 5).to_coco(polygons=True, simplify=value) for value in (0, 1.5))
    sizes = [sum(len(ring) for item in one["annotations"] for ring in item["segmentation"]) for one in (exact, simple)]
    assert sizes[1] < sizes[0] / 3
    assert sum(item["area"] for item in simple["annotations"]) == pytest.approx(labels.size)
    coco = _load(simple)
    agree = sum((coco.annToMask(item) * (labels == item["category_id"])).sum() for item in simple["annotations"])
    assert agree > 0.95 * labels.size


def test_files_of_images_are_merged(tmp_path: Path) -> None:
    maps = [smooth_map(40, 50, 4), smooth_map(30, 20, 4, seed=1), np.full((3, 4), 255, np.uint8)]
    parts = []
    for index, labels in enumerate(maps):
        path = tmp_path / f"{index}.coco.json"
        parts += segmentation_of(labels, 4).save(path, "coco", file_name=f"deep/{index}.jpg")
    merge_coco(parts, tmp_path / "all.json", Mark("predict"))
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(str(tmp_path / "all.json"))
    for index, labels in enumerate(maps):
        assert coco.imgs[index + 1]["file_name"] == f"deep/{index}.jpg"
        np.testing.assert_array_equal(_decode(coco, index + 1), labels)
    assert sorted(coco.anns) == list(range(1, len(coco.anns) + 1))
    parts[1].write_bytes(parts[1].read_bytes()[:-9])
    with pytest.raises(AtrousError, match=r"1\.coco\.json: not a complete annotation file"):
        merge_coco(parts, tmp_path / "b.json", Mark("predict"))
    assert not (tmp_path / "b.json").exists()
