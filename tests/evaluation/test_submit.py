from __future__ import annotations

import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from atrous import AtrousError
from atrous.evaluation import write_cityscapes, write_voc


def test_voc_layout_and_archive(tmp_path: Path) -> None:
    labels = np.arange(20, dtype=np.uint8).reshape(4, 5)
    archive = write_voc([("2008_000006", labels), ("2008_000008", labels[::-1])], tmp_path)
    inside = "results/VOC2012/Segmentation/comp6_test_cls"
    with tarfile.open(archive) as tar:
        assert {m.name for m in tar.getmembers() if m.isfile()} == {
            f"{inside}/2008_000006.png",
            f"{inside}/2008_000008.png",
        }
    with Image.open(tmp_path / inside / "2008_000006.png") as image:
        assert image.mode == "P"
        np.testing.assert_array_equal(np.asarray(image), labels)
        assert tuple(np.asarray(image.convert("RGB"))[0, 1]) == (128, 0, 0)
    with pytest.raises(AtrousError, match="comp5 or comp6"):
        write_voc([], tmp_path, competition="comp3")
    with pytest.raises(AtrousError, match="classes 0 to 20"):
        write_voc([("a", labels + 10)], tmp_path)


def test_cityscapes_names_and_label_ids(tmp_path: Path) -> None:
    labels = np.arange(19, dtype=np.uint8)[None]
    (path,) = write_cityscapes([("berlin/berlin_000000_000019_leftImg8bit", labels)], tmp_path)
    assert path.name == "berlin_000000_000019_pred_labelIds.png"
    with Image.open(path) as image:
        assert image.mode == "L"
        assert np.asarray(image)[0, :3].tolist() == [7, 8, 11]
        assert np.asarray(image)[0, -1] == 33
    with pytest.raises(AtrousError, match="CITY_SEQUENCE_FRAME"):
        write_cityscapes([("image7", labels)], tmp_path)


def test_the_official_evaluator_finds_the_files(tmp_path: Path) -> None:
    official = pytest.importorskip(
        "cityscapesscripts.evaluation.evalPixelLevelSemanticLabeling",
        reason="needs cityscapesscripts, of the dev extra",
    )
    write_cityscapes([("frankfurt_000000_000576", np.zeros((2, 2), np.uint8))], tmp_path)
    official.args.predictionPath = str(tmp_path)
    official.args.predictionWalk = None
    truth = "gtFine/val/frankfurt/frankfurt_000000_000576_gtFine_labelIds.png"
    assert official.getPrediction(official.args, truth).endswith("frankfurt_000000_000576_pred_labelIds.png")
