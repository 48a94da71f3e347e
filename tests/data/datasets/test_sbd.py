"""SBD in its official layout, and trainaug: its content, and the resumption of an interrupted run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from atrous import AtrousError
from atrous.data import open_dataset
from atrous.data.datasets.sbd import COUNTS, build_seg11valid, build_trainaug, seg11valid_names, trainaug_names
from tests.data_fixtures import Write, photograph, write_mat

pytest.importorskip("scipy.io")


@pytest.fixture
def voc_and_sbd(tmp_path: Path, write: Write) -> tuple[Path, Path]:
    """VOC with train a, b and val c; SBD with train b, c, d and val e. Of trainaug: a, b, d, e."""
    voc, sbd = tmp_path / "VOC2012", tmp_path / "benchmark_RELEASE"
    for number, name in enumerate("abcde"):
        write(voc / f"JPEGImages/{name}.jpg", photograph(number))
        if name in "abc":
            write(voc / f"SegmentationClass/{name}.png", np.full((24, 32), 15, np.uint8))
        if name in "bcde":
            write_mat(sbd / f"dataset/cls/{name}.mat", np.full((24, 32), number, np.uint8))
            write(sbd / f"dataset/img/{name}.jpg", photograph(number))
    write(voc / "ImageSets/Segmentation/train.txt", "a\nb\n")
    write(voc / "ImageSets/Segmentation/val.txt", "c\n")
    write(sbd / "dataset/train.txt", "b\nc\nd\n")
    write(sbd / "dataset/val.txt", "e\n")
    return voc, sbd


def test_mat_files(voc_and_sbd: tuple[Path, Path]) -> None:
    dataset = open_dataset(f"sbd:{voc_and_sbd[1]}")
    assert dataset.names == ("b", "c", "d")
    assert dataset.splits == ("train", "val")
    assert (dataset[2].labels == 3).all()
    assert dataset[2].labels.dtype == np.uint8


class TestTrainaug:
    def test_masks_and_list(self, voc_and_sbd: tuple[Path, Path]) -> None:
        voc, sbd = voc_and_sbd
        told: list[tuple[int, int]] = []
        names = build_trainaug(voc, sbd, voc, partial=True, on_progress=lambda *step: told.append(step))
        assert names == ["a", "b", "d", "e"]  # c is VOC's val
        assert told[-1] == (4, 4)
        dataset = open_dataset(f"voc2012:{voc}?split=trainaug")
        assert dataset.names == ("a", "b", "d", "e")
        assert [int(sample.labels[0, 0]) for sample in dataset] == [15, 15, 3, 4]  # VOC's own masks go first

    def test_to_another_folder(self, voc_and_sbd: tuple[Path, Path], tmp_path: Path) -> None:
        voc, sbd = voc_and_sbd
        build_trainaug(voc, sbd, tmp_path / "aug", partial=True)
        assert len(open_dataset(f"voc2012:{voc}?split=trainaug&aug={tmp_path / 'aug'}")) == 4
        assert not (voc / "SegmentationClassAug").exists()

    def test_an_interrupted_run_resumes(self, voc_and_sbd: tuple[Path, Path]) -> None:
        voc, sbd = voc_and_sbd
        (sbd / "dataset/cls/d.mat").rename(sbd / "d.mat")
        with pytest.raises(AtrousError, match=r"d\.mat"):
            build_trainaug(voc, sbd, voc, partial=True)
        assert not (voc / "ImageSets/Segmentation/trainaug.txt").exists()
        first = (voc / "SegmentationClassAug/b.png").stat().st_mtime_ns
        (sbd / "d.mat").rename(sbd / "dataset/cls/d.mat")
        build_trainaug(voc, sbd, voc, partial=True)
        assert (voc / "SegmentationClassAug/b.png").stat().st_mtime_ns == first
        assert len(list((voc / "SegmentationClassAug").iterdir())) == 4

    def test_lists_that_are_not_whole(self, voc_and_sbd: tuple[Path, Path]) -> None:
        with pytest.raises(AtrousError, match=r"VOC train 2 \(expected 1,464\).*trainaug 4 \(expected 10,582\)"):
            build_trainaug(*voc_and_sbd, voc_and_sbd[0])

    def test_the_official_counts(self) -> None:
        """Lists of the official lengths whose overlaps are such that the official union comes out."""
        val = [f"val{number}" for number in range(COUNTS["VOC val"])]
        train = [f"train{number}" for number in range(COUNTS["VOC train"])]
        total = COUNTS["SBD train"] + COUNTS["SBD val"]
        only = COUNTS["trainaug"] - len(train)  # of SBD alone
        common = total - only
        sbd = [*(f"sbd{number}" for number in range(only)), *train[: common - 1000], *val[:1000]]
        assert len(sbd) == 11_355
        names = trainaug_names(train, val, sbd)
        assert len(names) == 10_582
        assert not set(names) & set(val)
        assert names == sorted(names)
        with pytest.raises(AtrousError, match=r"trainaug 10,581 \(expected 10,582\), SBD 11,354"):
            trainaug_names(train, val, sbd[1:])
        with pytest.raises(AtrousError, match="VOC val 1,448"):
            trainaug_names(train, val[1:], sbd)


class TestSeg11valid:
    def test_val_of_2011_without_train_of_sbd(
        self, voc_and_sbd: tuple[Path, Path], tmp_path: Path, write: Write
    ) -> None:
        voc, sbd = voc_and_sbd
        with pytest.raises(AtrousError, match=r"seg11valid\.txt: no such list\. Write it by: atrous data voc-aug"):
            open_dataset(f"voc2012:{voc}?split=seg11valid")
        write(tmp_path / "VOC2011/ImageSets/Segmentation/val.txt", "a\nc\n")
        assert build_seg11valid(tmp_path, sbd, voc, partial=True) == ["a"]  # c is in SBD's train
        assert open_dataset(f"voc2012:{voc}?split=seg11valid").names == ("a",)
        with pytest.raises(AtrousError, match=r"VOC 2011 val 2 \(expected 1,111\).*seg11valid 1 \(expected 736\)"):
            build_seg11valid(tmp_path, sbd, voc)

    def test_the_official_counts(self) -> None:
        val = [f"val{number}" for number in range(COUNTS["VOC 2011 val"])]
        common = COUNTS["VOC 2011 val"] - COUNTS["seg11valid"]
        sbd_train = [*val[:common], *(f"sbd{number}" for number in range(COUNTS["SBD train"] - common))]
        names = seg11valid_names(val, sbd_train)
        assert len(names) == 736
        assert not set(names) & set(sbd_train)
