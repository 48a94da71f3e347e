"""The data sets, one file each."""

from atrous.data.datasets import (  # noqa: F401  (they register themselves)
    ade20k,
    camvid,
    cityscapes,
    coco_panoptic,
    coco_stuff,
    coco_voc,
    folder,
    pascal_context,
    person_part,
    sbd,
    voc,
)
