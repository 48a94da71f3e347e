"""Every data set on its real files, where they exist on this machine."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest

from atrous.data import SegmentationDataset, open_dataset
from atrous.data.datasets import ade20k, camvid, cityscapes, pascal_context, person_part, voc

REAL = [
    ("camvid:{}/camvid", 367, 11),
    ("camvid:{}/camvid?split=val", 101, 11),
    ("voc2012:{}/voc2012", 311, 21),
    ("voc2012:{}/voc2012?split=val", 161, 21),
    ("cityscapes:{}/cityscapes", 2, 19),
    ("cityscapes:{}/cityscapes?split=val", 1, 19),
    ("ade20k:{}/samples/ade20k?split=val", 3, 150),
    ("coco_stuff:{}/samples/coco_stuff?images=.&masks=.", 3, 171),
    ("coco_stuff:{}/samples/coco_stuff?images=.&masks=.&classes=182", 3, 182),
    (
        "coco_panoptic:{}/samples/coco_panoptic?images=input_images&masks=panoptic_examples&annotations="
        "panoptic_examples.json",
        2,
        133,
    ),
    ("coco_voc:{}/samples/coco_panoptic?split=input_images&instances=panoptic_coco_detection_format.json", 2, 21),
    ("pascal_context:{}/samples/pascal_context?split=all&images=.&masks=.", 4, 60),
    ("pascal_context:{}/samples/pascal_context?split=all&images=.&masks=.&classes=59", 4, 59),
    ("person_part:{}/samples/person_part?split=all&images=.&masks=.", 4, 7),
]


@pytest.mark.parametrize(("spec", "count", "classes"), REAL)
def test_real_files(shared_data: Path, spec: str, count: int, classes: int) -> None:
    dataset = open_dataset(spec.format(shared_data))
    assert len(dataset) == count
    assert len(dataset.classes) == len(dataset.colors) == len(set(dataset.classes)) == classes
    seen: set[int] = set()
    for index in np.linspace(0, count - 1, min(count, 12)).astype(int).tolist():
        sample = dataset[index]
        assert sample.image.shape == (*sample.labels.shape, 3)
        assert sample.image.dtype == sample.labels.dtype == np.uint8
        assert sample.image_path.is_file()
        assert sample.mask_path is not None
        assert sample.name == dataset.names[index]
        seen |= set(np.unique(sample.labels).tolist())
    assert len(seen - {255}) >= 2
    assert seen <= {*range(classes), 255}
    assert pickle.loads(pickle.dumps(dataset)).names == dataset.names


def names_in(dataset: SegmentationDataset, index: int) -> set[str]:
    return {dataset.classes[label] for label in np.unique(dataset.labels(index)) if label != dataset.ignore_index}


def test_known_content(shared_data: Path) -> None:
    """The classes that the images show."""
    context = open_dataset(f"pascal_context:{shared_data}/samples/pascal_context?split=all&images=.&masks=.")
    assert names_in(context, context.names.index("2008_008376")) == {"bird", "grass", "ground", "water", "wood"}
    bare = open_dataset(f"pascal_context:{shared_data}/samples/pascal_context?split=all&images=.&masks=.&classes=59")
    assert names_in(bare, bare.names.index("2009_000637")) == {"motorbike", "person", "grass", "ground", "sky"}
    street = open_dataset(f"cityscapes:{shared_data}/cityscapes?split=val")
    assert {"road", "car", "rider", "bicycle", "sky"} <= names_in(street, 0)
    scene = open_dataset(f"ade20k:{shared_data}/samples/ade20k?split=val")
    assert names_in(scene, 0) == {"wall", "building", "sky", "tree", "road", "grass", "plant"}
    room = open_dataset(f"coco_stuff:{shared_data}/samples/coco_stuff?images=.&masks=.")
    assert {"person", "chair", "tv", "refrigerator", "window-other"} <= names_in(room, 0)
    same = open_dataset(f"coco_stuff:{shared_data}/samples/coco_stuff?images=.&masks=.&classes=182")
    assert names_in(same, 0) == names_in(room, 0)


@pytest.mark.parametrize("module", [ade20k, camvid, cityscapes, pascal_context, person_part, voc])
def test_classes_and_colors_correspond(module) -> None:
    assert len(module.CLASSES) == len(module.COLORS) == len(set(module.CLASSES))
    assert all(0 <= channel <= 255 for color in module.COLORS for channel in color)
    assert all(name == name.strip() for name in module.CLASSES)
