from __future__ import annotations

import io
import json
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image, ImageShow

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


def test_annotations_corrected_in_labelme_are_not_replaced(segmentation: Segmentation, tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    segmentation.save(path, "labelme")
    content = path.read_bytes()
    assert segmentation.save(path, "labelme") == (path,)  # its own
    # labelme rewrites the keys that it knows, then appends the others
    known = ("version", "flags", "shapes", "imagePath", "imageData", "imageHeight", "imageWidth")
    written = json.loads(content)
    corrected = {**{key: written[key] for key in known}, **{key: written[key] for key in written if key not in known}}
    corrected["shapes"][0]["label"] = "corrected"
    path.write_text(json.dumps(corrected, indent=2))
    with pytest.raises(AtrousError, match=r"a\.json exists and is not a file of `atrous predict`, or was edited"):
        segmentation.save(path, "labelme")
    assert json.loads(path.read_text()) == corrected
    segmentation.save(path, "labelme", overwrite=True)
    assert path.read_bytes() == content


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


def test_notebooks_draw_the_overlay(segmentation: Segmentation) -> None:
    with Image.open(io.BytesIO(segmentation._repr_png_())) as image:
        assert image.format == "PNG"
        np.testing.assert_array_equal(np.asarray(image), segmentation.overlay())
    large = Segmentation(quadrants(4, 3000), np.zeros((4, 3000), np.uint8), ("all",), (GREEN,))
    with Image.open(io.BytesIO(large._repr_png_())) as image:
        assert image.width == 1024


def test_show_opens_a_viewer(segmentation: Segmentation, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[Image.Image] = []
    monkeypatch.setattr(ImageShow, "show", lambda image, title: shown.append(image) or True)
    segmentation.show()
    np.testing.assert_array_equal(np.asarray(shown[0]), segmentation.overlay())
    monkeypatch.setattr(ImageShow, "show", lambda image, title: False)
    with pytest.raises(AtrousError, match=r"no image viewer: save the overlay"):
        segmentation.show()


def test_show_displays_the_result_in_a_notebook(segmentation: Segmentation, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[object] = []
    shell = SimpleNamespace(kernel=object())
    notebook = SimpleNamespace(get_ipython=lambda: shell, display=SimpleNamespace(display=shown.append))
    monkeypatch.setitem(sys.modules, "IPython", notebook)
    segmentation.show()
    assert shown == [segmentation]


def test_probabilities_are_saved_if_there_are_some(segmentation: Segmentation, tmp_path: Path) -> None:
    with pytest.raises(AtrousError, match=r"segmenter\(image, probabilities=True\)"):
        segmentation.save_probabilities(tmp_path / "a.npz")
    result = replace(segmentation, probabilities=np.full((3, 60, 80), 1 / 3, np.float32))
    with pytest.raises(AtrousError, match=r"name it \*\.npz"):
        result.save_probabilities(tmp_path / "a.npy")
    for _ in range(2):
        assert result.save_probabilities(tmp_path / "a.npz") == tmp_path / "a.npz"
    (tmp_path / "a.npz").write_bytes(b"another file")
    with pytest.raises(AtrousError, match="exists and is not a file of"):
        result.save_probabilities(tmp_path / "a.npz")
