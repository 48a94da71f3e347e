"""CamVid: frames of a drive through Cambridge, 11 classes, 367 train, 101 val and 233 test frames of 480 x 360.

Layout and order of the classes follow the SegNet tutorial, as the papers' figures do.

Source: Brostow, Fauqueur, Cipolla: Semantic Object Classes in Video: A High-Definition Ground Truth Database, 2009.
"""

from __future__ import annotations

from pathlib import Path

from atrous.data.dataset import DATASETS, Item, SegmentationDataset
from atrous.data.layout import check_choice, existing_splits, files_by_name, find_root, in_collection, read_list
from atrous.imaging.io import IMAGE_SUFFIXES
from atrous.imaging.labels import MaskReader
from atrous.registry import Paper

CLASSES = (
    "sky",
    "building",
    "pole",
    "road",
    "pavement",
    "tree",
    "sign",
    "fence",
    "car",
    "pedestrian",
    "bicyclist",
)
COLORS = (
    (128, 128, 128),
    (128, 0, 0),
    (192, 192, 128),
    (128, 64, 128),
    (60, 40, 222),
    (128, 128, 0),
    (192, 128, 128),
    (64, 64, 128),
    (64, 0, 128),
    (64, 64, 0),
    (0, 128, 192),
)
VOID = 11
PAPER = Paper(
    title="Semantic Object Classes in Video: A High-Definition Ground Truth Database",
    authors="Brostow, Fauqueur, Cipolla",
    year=2009,
)
SPLITS = ("train", "val", "test")


@DATASETS.register("camvid", PAPER)
def camvid(*, root: Path, split: str = "train") -> SegmentationDataset:
    """CamVid in the layout of the SegNet tutorial: `train/`, `trainannot/`, `train.txt`, and so on; void is ignored."""
    check_choice("camvid", "split", split, SPLITS)
    folder = find_root(root, "CamVid", containing="trainannot" if split == "train" else f"{split}annot")
    frames = files_by_name(folder / split, IMAGE_SUFFIXES)
    stems = [Path(name).stem for name in read_list(folder / f"{split}.txt")]  # the lists hold paths of another machine
    return SegmentationDataset(
        name="camvid",
        split=split,
        items=in_collection(
            "camvid",
            (
                Item(stem, frames.get(stem, folder / split / f"{stem}.png"), folder / f"{split}annot" / f"{stem}.png")
                for stem in stems
            ),
        ),
        classes=CLASSES,
        colors=COLORS,
        reader=MaskReader(CLASSES, values={label: label for label in range(len(CLASSES))} | {VOID: 255, 255: 255}),
        splits=existing_splits(folder, SPLITS, "{}.txt"),
    )
