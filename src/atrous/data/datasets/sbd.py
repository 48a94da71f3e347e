"""The Semantic Boundaries Dataset: 11,355 images of VOC 2011 with masks of VOC's classes.

Combined with VOC it gives the 10,582 training images ("trainaug") of all DeepLab results on VOC.

Source: Hariharan, Arbelaez, Bourdev, Maji, Malik: Semantic Contours from Inverse Detectors, ICCV 2011.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from atrous.data.dataset import DATASETS, SegmentationDataset
from atrous.data.datasets import voc
from atrous.data.layout import check_choice, existing_splits, find_root, pair_names, read_list
from atrous.data.matlab import MatReader
from atrous.errors import AtrousError
from atrous.files import writing
from atrous.imaging.labels import MaskReader, save_labels
from atrous.progress import OnProgress
from atrous.registry import Paper

PAPER = Paper(
    title="Semantic Contours from Inverse Detectors",
    authors="Hariharan, Arbelaez, Bourdev, Maji, Malik",
    year=2011,
)
SPLITS = ("train", "val")
COUNTS = {"VOC train": 1464, "VOC val": 1449, "SBD train": 8498, "SBD val": 2857, "trainaug": 10582}
"""The numbers of names in the official lists, and in their union without VOC val."""
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
        items=tuple(pair_names(names, folder / "img", folder / "cls", mask_suffix=".mat")),
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
    counts = {"VOC train": len(set(voc_train)), "VOC val": len(set(voc_val)), "trainaug": len(names)}
    wrong = [f"{name} {count:,} (expected {COUNTS[name]:,})" for name, count in counts.items() if count != COUNTS[name]]
    if len(set(sbd_names)) != COUNTS["SBD train"] + COUNTS["SBD val"]:
        wrong.append(f"SBD {len(set(sbd_names)):,} (expected {COUNTS['SBD train'] + COUNTS['SBD val']:,})")
    if wrong and not partial:
        raise AtrousError(
            f"The lists are not the official ones: {', '.join(wrong)}. Download the complete archives, or pass "
            "--partial to use a part of them."
        )
    return names


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
    for done, name in enumerate(names):
        on_progress(done, len(names))
        target = out / voc.AUGMENTED_MASKS / f"{name}.png"
        if target.exists():
            continue
        labels = official.reader(voc_items[name]) if name in voc_items else _reader()(sbd_items[name])
        save_labels(labels, voc.COLORS, target)
    with writing(out / voc.LISTS / "trainaug.txt") as temporary:
        temporary.write_text("".join(f"{name}\n" for name in names), "utf-8")
    on_progress(len(names), len(names))
    return names
