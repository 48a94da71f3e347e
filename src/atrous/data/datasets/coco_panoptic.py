"""COCO's panoptic masks as classes: 80 kinds of objects ("things") and 53 kinds of "stuff".

Source: Kirillov et al.: Panoptic Segmentation, CVPR 2019.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from atrous.data.coco_annotations import SPLITS, check_format, read_json
from atrous.data.dataset import DATASETS, Item, SegmentationDataset
from atrous.data.layout import existing_splits, first_existing, in_collection, pair_names
from atrous.errors import AtrousError
from atrous.imaging.labels import Labels, label_dtype, pack_rgb, read_raw_mask
from atrous.registry import Paper

PAPER = Paper(
    title="Panoptic Segmentation", authors="Kirillov, He, Girshick, Rother, Dollar", year=2019, arxiv="1801.00868"
)


@dataclass(frozen=True)
class PanopticReader:
    """Reads labels from panoptic masks, whose colors are segment numbers: id = R + 256 G + 65536 B, 0 is void."""

    segments: Mapping[str, Mapping[int, int]]
    """The label of each segment, by the name of the image and the number of the segment."""
    num_classes: int
    ignore_index: int = 255

    def __call__(self, item: Item) -> Labels:
        assert item.mask is not None
        packed = pack_rgb(read_raw_mask(item.mask, as_colors=True)[..., ::-1])
        table = {0: self.ignore_index, **self.segments[item.name]}
        ids = np.array(sorted(table), np.uint32)
        place = np.minimum(np.searchsorted(ids, packed), len(ids) - 1)
        unknown = ids[place] != packed
        if unknown.any():
            raise AtrousError(
                f"{item.mask}: segment {packed[unknown][0]} is not among the {len(ids) - 1} segments that the JSON "
                f"file lists for this image ({np.count_nonzero(unknown)} px in unknown segments). Use masks and JSON "
                "file of the same release."
            )
        labels = np.array([table[number] for number in ids.tolist()])
        return labels.astype(label_dtype(self.num_classes, self.ignore_index))[place]


@DATASETS.register("coco_panoptic", PAPER)
def coco_panoptic(
    *, root: Path, split: str = "train2017", images: str = "", masks: str = "", annotations: str = ""
) -> SegmentationDataset:
    """COCO's panoptic masks as classes: `annotations/panoptic_train2017.json`, `annotations/panoptic_train2017/*.png`.

    Classes and colors are read from the JSON file, in its order. `images`, `masks` and `annotations` name other places.
    """
    path = first_existing(root, annotations or f"annotations/panoptic_{split}.json")
    mask_folder = first_existing(root, *((masks,) if masks else (f"annotations/panoptic_{split}", f"panoptic_{split}")))
    image_folder = first_existing(root, *((images,) if images else (split, f"images/{split}")))
    content = read_json(path, ("annotations", "categories"))
    with check_format(path):
        categories = content["categories"]
        label_of = {category["id"]: label for label, category in enumerate(categories)}
        classes = tuple(str(category["name"]) for category in categories)
        colors = tuple((int(r), int(g), int(b)) for r, g, b in (category["color"] for category in categories))
        if not all(0 <= value <= 255 for color in colors for value in color):
            raise ValueError("a color outside 0..255")
        segments = {
            Path(entry["file_name"]).stem: {
                _segment_id(part): label_of[part["category_id"]] for part in entry["segments_info"]
            }
            for entry in content["annotations"]
        }
    return SegmentationDataset(
        name="coco_panoptic",
        split=split,
        items=in_collection("coco", pair_names(sorted(segments), image_folder, mask_folder)),
        classes=classes,
        colors=colors,
        reader=PanopticReader(segments, len(categories)),
        splits=existing_splits(root, SPLITS, "annotations/panoptic_{}.json") or (split,),
    )


def _segment_id(part: Mapping[str, Any]) -> int:
    number = part["id"]
    if not isinstance(number, int) or not 0 <= number < 1 << 24:
        raise ValueError(f"the segment {number!r:.40}")
    return number
