"""The Semantic Boundaries Dataset: 11,355 images of VOC 2011 with masks of VOC's classes.

Combined with VOC it gives the 10,582 training images ("trainaug") of all DeepLab results on VOC.

Source: Hariharan, Arbelaez, Bourdev, Maji, Malik: Semantic Contours from Inverse Detectors, ICCV 2011.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

from atrous.data.dataset import DATASETS, SegmentationDataset
from atrous.data.datasets import voc
from atrous.data.layout import (
    check_choice,
    existing_splits,
    find_root,
    first_existing,
    in_collection,
    pair_names,
    read_list,
)
from atrous.data.matlab import MatReader
from atrous.errors import AtrousError
from atrous.files import write_text
from atrous.imaging.labels import MaskReader, save_labels
from atrous.progress import OnProgress
from atrous.registry import Paper

PAPER = Paper(
    title="Semantic Contours from Inverse Detectors",
    authors="Hariharan, Arbelaez, Bourdev, Maji, Malik",
    year=2011,
)
SPLITS = ("train", "val")
COUNTS = {
    "VOC train": 1464,
    "VOC val": 1449,
    "VOC 2011 val": 1111,
    "SBD train": 8498,
    "SBD val": 2857,
    "trainaug": 10582,
    "seg11valid": 736,
}
"""The numbers of names in the official lists, and in those that their rules give."""
FOLDERS = ("dataset", "benchmark_RELEASE/dataset", "benchmark/benchmark_RELEASE/dataset")
"""The folders that contain the data set in its unpacked archive."""


@DATASETS.register("sbd", PAPER)
def sbd(*, root: Path, split: str = "train") -> SegmentationDataset:
    """SBD in its official layout (`img/`, `cls/*.mat`): 8,498 train and 2,857 val images; its val is not VOC's val."""
    check_choice("sbd", "split", split, SPLITS)
    folder = find_root(root, *FOLDERS, containing="cls")
    names = read_list(folder / f"{split}.txt")
    return SegmentationDataset(
        name="sbd",
        split=split,
        items=in_collection("voc", pair_names(names, folder / "img", folder / "cls", mask_suffix=".mat")),
        classes=voc.CLASSES,
        colors=voc.COLORS,
        reader=_reader(),
        splits=existing_splits(folder, SPLITS, "{}.txt"),
    )


def _reader() -> MatReader:
    return MatReader(("GTcls", "Segmentation"), MaskReader(voc.CLASSES))


def trainaug_names(
    voc_train: Collection[str], voc_val: Collection[str], sbd_names: Collection[str], *, partial: bool = False
) -> list[str]:
    """List the names of trainaug in order: VOC train and all of SBD, without VOC val.

    Raises: `AtrousError` unless the lists and the result have the official counts; `partial` accepts parts of them.
    """
    names = sorted((set(voc_train) | set(sbd_names)) - set(voc_val))
    if not partial:
        sbd_total = COUNTS["SBD train"] + COUNTS["SBD val"]
        _check_counts(
            {
                "VOC train": (len(set(voc_train)), COUNTS["VOC train"]),
                "VOC val": (len(set(voc_val)), COUNTS["VOC val"]),
                "trainaug": (len(names), COUNTS["trainaug"]),
                "SBD": (len(set(sbd_names)), sbd_total),
            }
        )
    return names


def seg11valid_names(voc2011_val: Collection[str], sbd_train: Collection[str], *, partial: bool = False) -> list[str]:
    """List the names of seg11valid in order: the val images of VOC 2011 that are not in SBD's train.

    Source: the validation set of FCN, which trains on SBD's train (Long, Shelhamer, Darrell, CVPR 2015, section 5).
    Raises: `AtrousError` unless the lists and the result have the official counts; `partial` accepts parts of them.
    """
    names = sorted(set(voc2011_val) - set(sbd_train))
    if not partial:
        counts = {"VOC 2011 val": len(set(voc2011_val)), "SBD train": len(set(sbd_train)), "seg11valid": len(names)}
        _check_counts({name: (count, COUNTS[name]) for name, count in counts.items()})
    return names


def _check_counts(counts: Mapping[str, tuple[int, int]]) -> None:
    """Compare the lengths of lists, (found, expected)."""
    wrong = [
        f"{name} {count:,} (expected {expected:,})" for name, (count, expected) in counts.items() if count != expected
    ]
    if wrong:
        raise AtrousError(
            f"The lists are not the official ones: {', '.join(wrong)}. Download the complete archives, or pass "
            "--partial to use a part of them."
        )


def build_trainaug(
    voc_root: Path,
    sbd_root: Path,
    out: Path,
    *,
    partial: bool = False,
    on_progress: OnProgress = lambda done, total: None,
) -> list[str]:
    """Write the masks of trainaug as palette PNGs, and then its list, below `out`, in the layout of VOC.

    Images of VOC train get VOC's masks, all others SBD's. Masks of an earlier, interrupted run are kept; the list is
    written last. Afterwards `voc2012:VOC?split=trainaug` opens it, with `aug=OUT` if `out` is not the folder of VOC.

    Returns: the names.
    Raises: `AtrousError` for incomplete lists, see `trainaug_names`, and masks that are not readable or writable.
    """
    official = voc.voc2012(root=voc_root, split="train")
    voc_items = {item.name: item for item in official.items}
    sbd_items = {item.name: item for split in SPLITS for item in sbd(root=sbd_root, split=split).items}
    names = trainaug_names(voc_items, voc.voc2012(root=voc_root, split="val").names, sbd_items, partial=partial)
    path = out / voc.LISTS / "trainaug.txt"
    _check_list(path, names)
    for done, name in enumerate(names):
        on_progress(done, len(names))
        target = out / voc.AUGMENTED_MASKS / f"{name}.png"
        if target.exists():
            continue
        labels = official.reader(voc_items[name]) if name in voc_items else _reader()(sbd_items[name])
        save_labels(labels, voc.COLORS, target)
    _write_list(path, names)
    on_progress(len(names), len(names))
    return names


def build_seg11valid(voc2011_root: Path, sbd_root: Path, out: Path, *, partial: bool = False) -> list[str]:
    """Write the list of seg11valid below `out`, in the layout of VOC; images and masks are those of VOC 2012.

    Returns: the names.
    Raises: `AtrousError` for incomplete lists, see `seg11valid_names`, and a folder that is not writable.
    """
    lists = first_existing(voc2011_root, *(f"{folder}/{voc.LISTS}" for folder in (".", *voc.FOLDERS_2011)))
    val, sbd_train = read_list(lists / "val.txt"), sbd(root=sbd_root, split="train").names
    names = seg11valid_names(val, sbd_train, partial=partial)
    _write_list(out / voc.LISTS / "seg11valid.txt", names)
    return names


def _write_list(path: Path, names: list[str]) -> None:
    _check_list(path, names)
    write_text(path, "".join(f"{name}\n" for name in names))


def _check_list(path: Path, names: list[str]) -> None:
    """Check that no list of other names would be replaced."""
    if path.exists() and set(read_list(path)) != set(names):
        raise AtrousError(f"{path} is a list of other images: choose another folder with -o, or remove it first.")
