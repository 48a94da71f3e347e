"""PASCAL VOC 2012: 20 kinds of objects and the background.

Source: Everingham, Eslami, Van Gool, Williams, Winn, Zisserman: The PASCAL Visual Object Classes Challenge, IJCV 2015.
"""

from __future__ import annotations

from pathlib import Path

from atrous.data.dataset import DATASETS, Item, SegmentationDataset
from atrous.data.layout import (
    check_choice,
    existing_splits,
    find_root,
    first_existing,
    in_collection,
    pair_names,
    read_list,
)
from atrous.errors import AtrousError
from atrous.imaging.labels import MaskReader, voc_color_map
from atrous.registry import Paper

CLASSES = (
    "background",
    "aeroplane",
    "bicycle",
    "bird",
    "boat",
    "bottle",
    "bus",
    "car",
    "cat",
    "chair",
    "cow",
    "diningtable",
    "dog",
    "horse",
    "motorbike",
    "person",
    "pottedplant",
    "sheep",
    "sofa",
    "train",
    "tvmonitor",
)
COLORS = voc_color_map(len(CLASSES))
HARD_CLASSES = ("bicycle", "chair", "diningtable", "pottedplant", "sofa")
"""The classes whose images DeepLab v3 duplicates ("bootstrapping").

Source: Chen et al., arXiv 1706.05587, section 4.3.
"""

PAPER = Paper(
    title="The PASCAL Visual Object Classes Challenge: A Retrospective",
    authors="Everingham, Eslami, Van Gool, Williams, Winn, Zisserman",
    year=2015,
)
SPLITS = ("train", "val", "trainval", "trainaug", "seg11valid", "test")
BUILT_SPLITS = {"trainaug": "--sbd SBD", "seg11valid": "--sbd SBD --voc2011 VOC2011"}
"""The splits that `atrous data voc-aug` writes, with its options."""
MASKS = "SegmentationClass"
AUGMENTED_MASKS = "SegmentationClassAug"
FOLDERS = ("VOC2012", "VOCdevkit/VOC2012")
"""The folders that contain the data set in its unpacked archive."""
FOLDERS_2011 = ("VOC2011", "VOCdevkit/VOC2011", "TrainVal/VOCdevkit/VOC2011")
"""The same of VOC 2011, whose val seg11valid is a part of."""
LISTS = "ImageSets/Segmentation"


@DATASETS.register("voc2012", PAPER)
def voc2012(*, root: Path, split: str = "train", masks: str = "", aug: str = "") -> SegmentationDataset:
    """VOC 2012 in its official layout: 1,464 train, 1,449 val images; after `atrous data voc-aug` two splits more.

    These are `trainaug` (10,582 images of VOC and SBD, without VOC's val), and `seg11valid` (736 images: VOC 2011's val
    without SBD's train), on which networks trained on SBD's train are validated. `masks` names another folder of masks,
    `aug` the folder that `voc-aug` wrote to if it is not `root`.
    """
    check_choice("voc2012", "split", split, SPLITS)
    folder = find_root(root, *FOLDERS, containing="JPEGImages")
    augmented = root / aug if aug else folder
    path = (augmented if split in BUILT_SPLITS else folder) / LISTS / f"{split}.txt"
    if split in BUILT_SPLITS and not path.is_file():
        raise AtrousError(f"{path}: no such list. Write it by: atrous data voc-aug --voc {root} {BUILT_SPLITS[split]}")
    names = read_list(path)
    if split == "test":
        items = [Item(name, folder / "JPEGImages" / f"{name}.jpg", None) for name in names]
    else:
        kinds = (AUGMENTED_MASKS,) if split == "trainaug" else (MASKS, AUGMENTED_MASKS)
        mask_folder = first_existing(augmented if split == "trainaug" else folder, *((masks,) if masks else kinds))
        items = pair_names(names, folder / "JPEGImages", mask_folder)
    return SegmentationDataset(
        name="voc2012",
        split=split,
        items=in_collection("voc", items),
        classes=CLASSES,
        colors=COLORS,
        reader=MaskReader(CLASSES),
        splits=existing_splits(folder, ("train", "val"), f"{LISTS}/{{}}.txt"),
    )
