"""COCO's objects as the 21 classes of PASCAL VOC, on which VOC networks are pretrained.

Source: Lin et al.: Microsoft COCO: Common Objects in Context, ECCV 2014.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from atrous.data.coco_annotations import SPLITS, Region, RegionReader, check_format, parse_region, parse_size, read_json
from atrous.data.dataset import DATASETS, Item, SegmentationDataset
from atrous.data.datasets import voc
from atrous.data.layout import check_choice, existing_splits, first_existing, in_collection
from atrous.registry import Paper

VOC_CATEGORIES = {
    5: "aeroplane",
    2: "bicycle",
    16: "bird",
    9: "boat",
    44: "bottle",
    6: "bus",
    3: "car",
    17: "cat",
    62: "chair",
    21: "cow",
    67: "diningtable",
    18: "dog",
    19: "horse",
    4: "motorbike",
    1: "person",
    64: "pottedplant",
    20: "sheep",
    63: "sofa",
    7: "train",
    72: "tvmonitor",
}
"""The COCO category ids of VOC's classes."""
LABELS = {category: voc.CLASSES.index(name) for category, name in VOC_CATEGORIES.items()}
SUBSETS: Mapping[str, Callable[[float], bool]] = {
    "all": lambda area: True,
    "crf_rnn": lambda area: area >= 200,
    "v3": lambda area: area > 1000,
}
"""Conditions on the area of the annotated regions of VOC's classes in an image, in pixels; COCO's areas are fractional.

Source: CRF-RNN (Zheng et al., arXiv 1502.03240), "at least 200 pixels"; DeepLab v3 (Chen et al., arXiv 1706.05587,
section 4.3), "larger than 1000 pixels".
"""
PAPER = Paper(
    title="Microsoft COCO: Common Objects in Context",
    authors="Lin, Maire, Belongie, Hays",
    year=2014,
    arxiv="1405.0312",
)


@DATASETS.register("coco_voc", PAPER)
def coco_voc(*, root: Path, split: str = "train2017", subset: str = "", instances: str = "") -> SegmentationDataset:
    """COCO's objects as the 21 classes of VOC: `train2017/`, `annotations/instances_train2017.json`.

    `subset` is "v3" (images with more than 1000 pixels of VOC's classes, the default for training), "crf_rnn" (200 or
    more) or "all" (the default for val2017). `instances` names another annotation file.
    """
    subset = subset or ("v3" if split.startswith("train") else "all")
    check_choice("coco_voc", "subset", subset, SUBSETS)
    images = first_existing(root, split, f"images/{split}")
    path = first_existing(root, instances or f"annotations/instances_{split}.json")
    content = read_json(path, ("images", "annotations"))
    with check_format(path):
        items, reader = _items_and_reader(content, path, images, SUBSETS[subset])
    return SegmentationDataset(
        name="coco_voc",
        split=split,
        items=in_collection("coco", items),
        classes=voc.CLASSES,
        colors=voc.COLORS,
        reader=reader,
        splits=existing_splits(root, SPLITS, "annotations/instances_{}.json"),
    )


def _items_and_reader(
    content: dict[str, Any], path: Path, images: Path, keep: Callable[[float], bool]
) -> tuple[tuple[Item, ...], RegionReader]:
    sizes: dict[str, tuple[int, int]] = {}
    names: dict[int, str] = {}
    files: dict[str, Path] = {}
    for image in content["images"]:
        name = Path(image["file_name"]).stem
        names[image["id"]] = name
        sizes[name] = parse_size(image)
        files[name] = images / image["file_name"]
    regions: dict[str, list[Region]] = {name: [] for name in sizes}
    areas = dict.fromkeys(sizes, 0.0)
    for annotation in content["annotations"]:
        label = LABELS.get(annotation["category_id"])
        if label is not None:
            name = names[annotation["image_id"]]
            regions[name].append(parse_region(annotation, label, sizes[name], path))
            areas[name] += annotation["area"]
    kept = sorted(name for name, area in areas.items() if keep(area))
    reader = RegionReader({name: sizes[name] for name in kept}, {name: tuple(regions[name]) for name in kept})
    return tuple(Item(name, files[name], path) for name in kept), reader
