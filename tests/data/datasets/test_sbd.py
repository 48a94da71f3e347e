"""SBD's MATLAB files, and trainaug: what is in it, what is not, and that a broken run goes on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from atrous import AtrousError
from atrous.data import open_dataset
from atrous.data.datasets.sbd import COUNTS, build_trainaug, trainaug_names
from tests.data_fixtures import Write, photograph

savemat = pytest.importorskip("scipy.io").savemat


def write_mat(path: Path, labels: np.ndarray) -> None:
    """As SBD has it: a struct GTcls with cells of sparse boundaries, the matrix, and the categories in it."""
    from scipy.sparse import csc_matrix

    path.parent.mkdir(parents=True, exist_ok=True)
    boundaries = np.empty((20, 1), object)
    boundaries[:, 0] = [csc_matrix(labels == label, dtype=float) for label in range(1, 21)]
    present = np.unique(labels[labels > 0])[:, None]
    fields = {"Boundaries": boundaries, "Segmentation": labels, "CategoriesPresent": present}
    savemat(path, {"GTcls": fields}, do_compression=True)


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


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "not a MATLAB file"), (b"hello, I am a text" * 20, "not a MATLAB file"), (None, "no such file")],
)
def test_hostile_mat_files(voc_and_sbd: tuple[Path, Path], content: bytes | None, message: str) -> None:
    path = voc_and_sbd[1] / "dataset/cls/b.mat"
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(AtrousError, match=message) as caught:
        open_dataset(f"sbd:{voc_and_sbd[1]}")[0]
    assert "b.mat" in str(caught.value)


@pytest.mark.parametrize("kept", [0.3, 0.8])
def test_a_truncated_mat_file(voc_and_sbd: tuple[Path, Path], kept: float) -> None:
    path = voc_and_sbd[1] / "dataset/cls/b.mat"
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * kept)])
    with pytest.raises(AtrousError, match=r"b\.mat"):
        open_dataset(f"sbd:{voc_and_sbd[1]}")[0]


def test_mat_files_of_something_else(voc_and_sbd: tuple[Path, Path]) -> None:
    path = voc_and_sbd[1] / "dataset/cls/b.mat"
    for content, message in (
        ({"GTinst": {"Segmentation": np.ones((2, 2))}}, "contains no GTcls.Segmentation"),
        ({"GTcls": {"Boundaries": 1}}, "contains no GTcls.Segmentation"),
        ({"GTcls": {"Segmentation": np.full((2, 2), 0.5)}}, "is float64 of shape"),
    ):
        savemat(path, content)
        with pytest.raises(AtrousError, match=message):
            open_dataset(f"sbd:{voc_and_sbd[1]}")[0]
    write_mat(path, np.full((24, 32), 21, np.uint8))
    with pytest.raises(AtrousError, match=r"value 21 \(768 px\) without a class"):
        open_dataset(f"sbd:{voc_and_sbd[1]}")[0]


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

    def test_a_run_that_broke_off_goes_on(self, voc_and_sbd: tuple[Path, Path]) -> None:
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
