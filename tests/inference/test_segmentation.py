from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from atrous import AtrousError
from atrous.inference.segmentation import Segmentation
from tests.inference.networks import BLUE, GREEN, quadrants


@pytest.fixture
def segmentation() -> Segmentation:
    pixels = quadrants(60, 80)
    return Segmentation(
        pixels, pixels.argmax(2).astype(np.uint8), ("background", "tree", "sky"), ((0, 0, 0), GREEN, BLUE)
    )


def test_class_fractions_are_sorted_and_sum_to_one(segmentation: Segmentation) -> None:
    assert segmentation.class_fractions() == {"background": 0.5, "tree": 0.25, "sky": 0.25}


def test_save_writes_a_palette_png_and_an_overlay(segmentation: Segmentation, tmp_path: Path) -> None:
    labels, overlay = segmentation.save(tmp_path / "new" / "a.png")
    with Image.open(labels) as image:
        assert image.mode == "P"
        np.testing.assert_array_equal(np.asarray(image), segmentation.labels)
        np.testing.assert_array_equal(np.asarray(image.convert("RGB"))[0, 79], GREEN)
    with Image.open(overlay) as image:
        assert image.width == 80
        assert image.height > 60  # the legend
    assert sorted(p.name for p in labels.parent.iterdir()) == ["a.png", "a_overlay.png"]


def test_no_other_file_is_replaced(segmentation: Segmentation, tmp_path: Path) -> None:
    photo = tmp_path / "photo.png"
    Image.fromarray(segmentation.image).save(photo)
    before = photo.read_bytes()
    with pytest.raises(AtrousError, match=r"photo.png exists and is not a file of"):
        segmentation.save(photo)
    (tmp_path / "b_overlay.png").write_bytes(before)
    with pytest.raises(AtrousError, match=r"b_overlay.png exists and is not a file of"):
        segmentation.save(tmp_path / "b.png")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["b_overlay.png", "photo.png"]
    assert photo.read_bytes() == before
    segmentation.save(photo, overwrite=True)
    segmentation.save(photo)  # its own


def test_the_overlay_paints_objects_and_not_the_background(segmentation: Segmentation) -> None:
    overlay = segmentation.overlay(opacity=0.5, legend=False)
    assert overlay.shape == segmentation.image.shape
    np.testing.assert_array_equal(overlay[5, 5], segmentation.image[5, 5])
    np.testing.assert_allclose(overlay[5, 70], (segmentation.image[5, 70].astype(float) + GREEN) / 2, atol=1)
    assert (overlay == 255).all(2).any()  # an outline


def test_labels_are_not_saved_as_jpeg(segmentation: Segmentation, tmp_path: Path) -> None:
    with pytest.raises(AtrousError, match="JPEG would alter them"):
        segmentation.save(tmp_path / "a.jpg")
    assert not any(tmp_path.iterdir())
