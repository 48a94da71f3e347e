from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from atrous import AtrousError
from atrous.data import open_dataset
from atrous.data.datasets import voc
from atrous.imaging.labels import count_labels, read_raw_mask, save_labels
from tests.data_fixtures import Write, photograph


def test_the_test_split_in_the_folder_of_the_archive(tmp_path: Path, write: Write) -> None:
    root = tmp_path / "VOCdevkit/VOC2012"
    write(root / "ImageSets/Segmentation/test.txt", "2008_000006\n")
    write(root / "JPEGImages/2008_000006.jpg", photograph(0))
    dataset = open_dataset(f"voc2012:{tmp_path}?split=test")
    assert dataset[0].mask_path is None
    with pytest.raises(AtrousError, match=r"val\.txt: no such list.*Lists in this folder: test"):
        open_dataset(f"voc2012:{tmp_path}?split=val")


def test_saved_masks_show_ignored_pixels(tmp_path: Path) -> None:
    save_labels(np.array([[0, 255]], np.uint8), voc.COLORS, tmp_path / "a.png")
    assert np.asarray(Image.open(tmp_path / "a.png").convert("RGB")).tolist() == [[[0, 0, 0], [224, 224, 192]]]
    assert count_labels(read_raw_mask(tmp_path / "a.png"))[255] == 1
