"""PASCAL VOC 2012: 20 kinds of things and the background.

Source: Everingham, Eslami, Van Gool, Williams, Winn, Zisserman: The PASCAL Visual Object Classes Challenge, IJCV 2015.
"""

from __future__ import annotations

from pathlib import Path

from atrous.data.dataset import DATASETS, Item, SegmentationDataset
from atrous.data.layout import check_choice, descend, existing, first_of, pair, read_list
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
"""Those whose images DeepLab v3 lists again ("bootstrapping").

Source: Chen et al., arXiv 1706.05587, section 4.1.
"""

PAPER = Paper(
    title="The PASCAL Visual Object Classes Challenge: A Retrospective",
    authors="Everingham, Eslami, Van Gool, Williams, Winn, Zisserman",
    year=2015,
)
SPLITS = ("train", "val", "trainval", "trainaug", "test")
MASKS = "SegmentationClass"
AUGMENTED_MASKS = "SegmentationClassAug"
INNER = ("VOC2012", "VOCdevkit/VOC2012")
"""Where it lies in the folders its archive unpacks to."""
LISTS = "ImageSets/Segmentation"


@DATASETS.register("voc2012", PAPER)
def voc2012(*, root: Path, split: str = "train", masks: str = "", aug: str = "") -> SegmentationDataset:
    """VOC 2012 in its official layout: 1,464 train, 1,449 val images; `trainaug` once `atrous data voc-aug` wrote it.

    `masks` names another folder of masks, `aug` the folder that `voc-aug` wrote to where that is not `root`.
    """
    check_choice("voc2012", "split", split, SPLITS)
    folder = descend(root, *INNER, holding="JPEGImages")
    augmented = root / aug if aug else folder
    names = read_list((augmented if split == "trainaug" else folder) / LISTS / f"{split}.txt")
    if split == "test":
        items = [Item(name, folder / "JPEGImages" / f"{name}.jpg", None) for name in names]
    else:
        kinds = (AUGMENTED_MASKS,) if split == "trainaug" else (MASKS, AUGMENTED_MASKS)
        where = first_of(augmented if split == "trainaug" else folder, *((masks,) if masks else kinds))
        items = pair(names, folder / "JPEGImages", where)
    return SegmentationDataset(
        name="voc2012",
        split=split,
        items=tuple(items),
        classes=CLASSES,
        colors=COLORS,
        reader=MaskReader(CLASSES),
        splits=existing(folder, ("train", "val"), f"{LISTS}/{{}}.txt"),
    )
