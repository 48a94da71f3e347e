"""PASCAL-Context: every pixel of VOC 2010 labeled; 59 classes and the background, 4,998 train and 5,105 val images.

Source: Mottaghi, Chen, Liu, Cho, Lee, Fidler, Urtasun, Yuille: The Role of Context for Object Detection and Semantic
Segmentation in the Wild, CVPR 2014; classes in the order of its `59_labels.txt`.
"""

from __future__ import annotations

from pathlib import Path

from atrous.data.dataset import DATASETS, Item, SegmentationDataset
from atrous.data.datasets.sbd import MatReader
from atrous.data.layout import check_choice, descend, first_of, listed_or_all
from atrous.errors import AtrousError
from atrous.imaging.labels import MaskReader, voc_color_map
from atrous.registry import Paper

CLASSES = (
    "background",
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("table", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
    *("bag", "bed", "bench", "book", "building", "cabinet", "ceiling", "cloth", "computer", "cup"),
    *("door", "fence", "floor", "flower", "food", "grass", "ground", "keyboard", "light", "mountain"),
    *("mouse", "curtain", "platform", "sign", "plate", "road", "rock", "shelves", "sidewalk", "sky"),
    *("snow", "bedclothes", "track", "tree", "truck", "wall", "water", "window", "wood"),
)
COLORS = voc_color_map(len(CLASSES))
PAPER = Paper(
    title="The Role of Context for Object Detection and Semantic Segmentation in the Wild",
    authors="Mottaghi, Chen, Liu, Cho, Lee, Fidler, Urtasun, Yuille",
    year=2014,
)
LISTS = ("ImageSets/Segmentation_Context", "ImageSets/Main", ".")


@DATASETS.register("pascal_context", PAPER)
def pascal_context(
    *, root: Path, split: str = "train", classes: int = 60, images: str = "", masks: str = ""
) -> SegmentationDataset:
    """Context beside VOC 2010: masks of `59_context_labels/*.png`, or of the original `trainval/*.mat`.

    With `classes=59` the background is ignored. `split=all` takes every mask there is, in color or by index, without a
    list. `images` and `masks` name other folders.
    """
    check_choice("pascal_context", "number of classes", str(classes), ("59", "60"))
    folder = descend(root, "VOC2010", "VOCdevkit/VOC2010", holding=images or "JPEGImages")
    pictures = folder / (images or "JPEGImages")
    where = first_of(folder, *((masks,) if masks else ("59_context_labels", "trainval")))
    matlab = any(where.glob("*.mat"))
    items, splits = listed_or_all(
        "pascal_context", split, folder, LISTS, pictures, where, mask=".mat" if matlab else ".png"
    )
    chosen = CLASSES[60 - classes :]
    shift = {label: label - (60 - classes) if label >= 60 - classes else 255 for label in range(60)} | {255: 255}
    if matlab:
        reader: MatReader | MaskReader = MatReader(
            ("LabelMap",), MaskReader(chosen, values=_from_459(first_of(folder, "labels.txt"), shift))
        )
    else:
        reader = MaskReader(chosen, values=shift, colors=dict(zip(COLORS, list(shift.values())[:60], strict=True)))
    return SegmentationDataset(
        name="pascal_context",
        split=split,
        items=_with_masks(items),
        classes=chosen,
        colors=COLORS[60 - classes :],
        reader=reader,
        splits=splits,
    )


def _with_masks(items: list[Item]) -> tuple[Item, ...]:
    """Those of VOC's lists that Context labeled: it left out some."""
    kept = tuple(item for item in items if item.mask is not None and item.mask.is_file())
    if not kept:
        raise AtrousError(f"{items[0].mask}: neither this mask nor any other of the {len(items)} listed exists.")
    return kept


def _from_459(path: Path, labels: dict[int, int]) -> dict[int, int]:
    """The 459 classes of the original masks to ours: by name, all others are background.

    Source: `labels.txt` of the data set, lines such as `1: accordion`.
    """
    stored = {0: labels[0]}
    for line in path.read_text("utf-8").splitlines():
        number, _, name = line.partition(":")
        if name:
            known = name.strip().replace(" ", "")
            stored[int(number)] = labels[CLASSES.index(known) if known in CLASSES else 0]
    return stored
