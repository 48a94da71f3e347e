"""Images that were trained on are recognized in other data sets, and in other folders."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from atrous import AtrousError
from atrous.data import open_dataset
from atrous.data.overlap import check_not_trained_on, image_digests, pack_digests, unpack_digests
from tests.data_fixtures import Write, photograph


@pytest.fixture
def voc(tmp_path: Path, write: Write) -> Path:
    root = tmp_path / "VOC2012"
    for number, name in enumerate("ab"):
        write(root / f"JPEGImages/2008_{name}.jpg", photograph(number))
    write(root / "ImageSets/Segmentation/train.txt", "2008_a\n")
    write(root / "ImageSets/Segmentation/val.txt", "2008_b\n")
    (root / "SegmentationClass").mkdir()
    return root


def test_the_same_image_in_sbd_and_voc(tmp_path: Path, voc: Path, write: Write) -> None:
    write(tmp_path / "sbd/train.txt", "2008_b\n2008_c\n")
    (tmp_path / "sbd/cls").mkdir()
    trained = image_digests(open_dataset(f"sbd:{tmp_path / 'sbd'}"))
    check_not_trained_on(trained, open_dataset(f"voc2012:{voc}?split=train"), "allow it")
    message = r"voc2012 val: 1 of its 1 images were trained on \(2008_b\).*, or allow it to evaluate"
    with pytest.raises(AtrousError, match=message):
        check_not_trained_on(trained, open_dataset(f"voc2012:{voc}?split=val"), "allow it")


def test_files_of_a_folder_are_compared_by_content(tmp_path: Path, own: Path) -> None:
    train, val = (open_dataset(f"folder:{own}?split={split}") for split in ("train", "val"))
    trained = image_digests(train)
    assert len(trained) == 4
    check_not_trained_on(trained, val, "allow it")
    shutil.copytree(own, tmp_path / "copy")
    shutil.copyfile(own / "images/0.jpg", tmp_path / "copy/images/4.jpg")
    with pytest.raises(AtrousError, match=r"copy val: 1 of its 2 images were trained on \(4\)"):
        check_not_trained_on(trained, open_dataset(f"folder:{tmp_path / 'copy'}?split=val"), "allow it")


def test_digests_as_text(own: Path) -> None:
    digests = image_digests(open_dataset(f"folder:{own}"))
    assert unpack_digests(pack_digests(digests)) == digests
    assert unpack_digests("") == frozenset()
    with pytest.raises(AtrousError, match="trained_images are damaged"):
        unpack_digests("not base64!")
