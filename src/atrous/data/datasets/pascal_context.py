"""PASCAL-Context: VOC 2010 with every pixel labeled; 59 classes and the background, 4,998 train and 5,105 val images.

Source: Mottaghi, Chen, Liu, Cho, Lee, Fidler, Urtasun, Yuille: The Role of Context for Object Detection and Semantic
Segmentation in the Wild, CVPR 2014; classes in the order of its `59_labels.txt`.
"""

from __future__ import annotations

from pathlib import Path

from atrous.data.dataset import DATASETS, Item, SegmentationDataset
from atrous.data.layout import check_choice, find_root, first_existing, in_collection, items_of_split
from atrous.data.matlab import MatReader
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
    """Context in VOC 2010: masks of `59_context_labels/*.png`, or the original `trainval/*.mat`.

    With `classes=59` the background is ignored. `split=all` uses every existing mask, in color or by index, without a
    list. `images` and `masks` name other folders.
    """
    check_choice("pascal_context", "number of classes", str(classes), ("59", "60"))
    folder = find_root(root, "VOC2010", "VOCdevkit/VOC2010", containing=images or "JPEGImages")
    image_folder = folder / (images or "JPEGImages")
    mask_folder = first_existing(folder, *((masks,) if masks else ("59_context_labels", "trainval")))
    matlab = any(mask_folder.glob("*.mat"))
    items, splits = items_of_split(
        "pascal_context", split, folder, LISTS, image_folder, mask_folder, mask_suffix=".mat" if matlab else ".png"
    )
    chosen = CLASSES[60 - classes :]
    shift = {label: label - (60 - classes) if label >= 60 - classes else 255 for label in range(60)} | {255: 255}
    if matlab:
        reader: MatReader | MaskReader = MatReader(
            ("LabelMap",), MaskReader(chosen, values=_labels_of_459(first_existing(folder, "labels.txt"), shift))
        )
    else:
        reader = MaskReader(chosen, values=shift, colors=dict(zip(COLORS, list(shift.values())[:60], strict=True)))
    return SegmentationDataset(
        name="pascal_context",
        split=split,
        items=in_collection("voc", _with_masks(items)),
        classes=chosen,
        colors=COLORS[60 - classes :],
        reader=reader,
        splits=splits,
    )


def _with_masks(items: list[Item]) -> tuple[Item, ...]:
    """Select the images of VOC's lists that have a mask: Context did not label all."""
    kept = tuple(item for item in items if item.mask is not None and item.mask.is_file())
    if not kept:
        raise AtrousError(
            f"{items[0].mask}: no such file, nor any of the other listed masks. Unpack the masks of PASCAL-Context."
        )
    return kept


def _labels_of_459(path: Path, labels: dict[int, int]) -> dict[int, int]:
    """Map the 459 classes of the original masks to labels by name; all other classes become background.

    Source: `labels.txt` of the data set, lines such as `1: accordion`.
    Raises: `AtrousError` for another file.
    """
    stored = {0: labels[0]}
    for place, line in enumerate(path.read_text("utf-8", "replace").splitlines(), start=1):
        number, _, name = line.partition(":")
        if name:
            if not (number.strip().isdecimal() and len(number) < 6 and int(number) < 65536):
                raise AtrousError(
                    f"{path}, line {place}: expected a number up to 65535 and a class, such as '1: accordion'. Unpack "
                    "the data set again."
                )
            known = name.strip().replace(" ", "")
            stored[int(number)] = labels[CLASSES.index(known) if known in CLASSES else 0]
    return stored
