"""Cityscapes: streets of 50 cities at 2048 x 1024, 19 classes; 2,975 train, 500 val and 1,525 test frames.

Source: Cordts, Omran, Ramos, Rehfeld, Enzweiler, Benenson, Franke, Roth, Schiele: The Cityscapes Dataset for Semantic
Urban Scene Understanding, CVPR 2016; classes and colors from `labels.py` of its scripts.
"""

from __future__ import annotations

from pathlib import Path

from atrous.data.dataset import DATASETS, Item, SegmentationDataset
from atrous.data.layout import check_choice, existing_splits, files_by_name, first_existing, in_collection
from atrous.errors import AtrousError
from atrous.imaging.labels import MaskReader
from atrous.registry import Paper

CLASSES = (
    "road",
    "sidewalk",
    "building",
    "wall",
    "fence",
    "pole",
    "traffic light",
    "traffic sign",
    "vegetation",
    "terrain",
    "sky",
    "person",
    "rider",
    "car",
    "truck",
    "bus",
    "train",
    "motorcycle",
    "bicycle",
)
COLORS = (
    (128, 64, 128),
    (244, 35, 232),
    (70, 70, 70),
    (102, 102, 156),
    (190, 153, 153),
    (153, 153, 153),
    (250, 170, 30),
    (220, 220, 0),
    (107, 142, 35),
    (152, 251, 152),
    (70, 130, 180),
    (220, 20, 60),
    (255, 0, 0),
    (0, 0, 142),
    (0, 0, 70),
    (0, 60, 100),
    (0, 80, 100),
    (0, 0, 230),
    (119, 11, 32),
)
LABEL_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
"""The ids of the classes in the masks; the other ids up to 33 are void or too rare to be evaluated."""

PAPER = Paper(
    title="The Cityscapes Dataset for Semantic Urban Scene Understanding",
    authors="Cordts, Omran, Ramos, Rehfeld, Enzweiler, Benenson, Franke, Roth, Schiele",
    year=2016,
    arxiv="1604.01685",
)
SPLITS = ("train", "val", "test", "train_extra")


@DATASETS.register("cityscapes", PAPER)
def cityscapes(*, root: Path, split: str = "train", labels: str = "gtFine") -> SegmentationDataset:
    """Cityscapes in its official layout (`leftImg8bit/`, `gtFine/`), labelIds read as the 19 training classes.

    `labels=gtCoarse` reads the coarse masks, which include the split `train_extra`. The masks of `test` are not public:
    its frames have no labels.
    """
    check_choice("cityscapes", "split", split, SPLITS)
    check_choice("cityscapes", "kind of labels", labels, ("gtFine", "gtCoarse"))
    images = first_existing(root, f"leftImg8bit/{split}")
    items = []
    for stem, path in files_by_name(images, (".png",)).items():
        name = stem.removesuffix("_leftImg8bit")
        mask = None if split == "test" else root / labels / split / f"{name}_{labels}_labelIds.png"
        items.append(Item(name, path, mask))
    if not items:
        raise AtrousError(
            f"{images}: this folder contains no frames; expected CITY/CITY_..._leftImg8bit.png. Unpack them there."
        )
    ignored = {value: 255 for value in (*range(34), 255) if value not in LABEL_IDS}  # 255: the license plates, id -1
    return SegmentationDataset(
        name="cityscapes",
        split=split,
        items=in_collection("cityscapes", items),
        classes=CLASSES,
        colors=COLORS,
        reader=MaskReader(CLASSES, values={value: label for label, value in enumerate(LABEL_IDS)} | ignored),
        splits=existing_splits(root, ("train", "val"), "leftImg8bit/{}"),
    )
