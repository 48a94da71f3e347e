"""PASCAL-Person-Part: the people of VOC 2010 segmented into six parts, 1,716 train and 1,817 val images.

Source: Chen, Mottaghi, Liu, Fidler, Urtasun, Yuille: Detect What You Can: Detecting and Representing Objects using
Holistic Models and Body Parts, CVPR 2014; merged to six parts by Chen et al., Attention to Scale, CVPR 2016.
"""

from __future__ import annotations

from pathlib import Path

from atrous.data.dataset import DATASETS, SegmentationDataset
from atrous.data.layout import find_root, first_existing, in_collection, items_of_split
from atrous.imaging.labels import MaskReader, voc_color_map
from atrous.registry import Paper

CLASSES = ("background", "head", "torso", "upper arms", "lower arms", "upper legs", "lower legs")
COLORS = voc_color_map(len(CLASSES))
PAPER = Paper(
    title="Detect What You Can: Detecting and Representing Objects using Holistic Models and Body Parts",
    authors="Chen, Mottaghi, Liu, Fidler, Urtasun, Yuille",
    year=2014,
    arxiv="1406.2031",
)
LISTS = ("pascal_person_part_trainval_list", "ImageSets/Person_Part", ".")


@DATASETS.register("person_part", PAPER)
def person_part(*, root: Path, split: str = "train", images: str = "", masks: str = "") -> SegmentationDataset:
    """Person-Part in VOC 2010: masks of `pascal_person_part_gt/`, lists of `pascal_person_part_trainval_list/`.

    `split=all` uses every existing mask, without a list. `images` and `masks` name other folders.
    """
    folder = find_root(root, "VOC2010", "VOCdevkit/VOC2010", "pascal_person_part", containing=images or "JPEGImages")
    image_folder = folder / (images or "JPEGImages")
    mask_folder = first_existing(folder, *((masks,) if masks else ("pascal_person_part_gt", "SegmentationPart")))
    items, splits = items_of_split("person_part", split, folder, LISTS, image_folder, mask_folder)
    return SegmentationDataset(
        name="person_part",
        split=split,
        items=in_collection("voc", items),
        classes=CLASSES,
        colors=COLORS,
        reader=MaskReader(CLASSES),
        splits=splits,
    )
