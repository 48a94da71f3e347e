"""Annotations of labelme: a polygon for each region, to be corrected by hand.

Source: labelme 5, `labelme/label_file.py`.
"""

from __future__ import annotations

import json
from typing import Any

from atrous.imaging.draw import UNPAINTED_CLASSES
from atrous.inference.formats.coco import shorten_numbers
from atrous.inference.formats.format import FormatOptions, Segmented
from atrous.inference.formats.polygons import join_holes, trace_polygons
from atrous.marks import Mark

VERSION = "5.5.0"
"""The version of labelme whose files these are."""


def labelme_annotations(segmentation: Segmented, file_name: str, options: FormatOptions) -> dict[str, Any]:
    """Describe the regions of a segmentation as labelme's shapes, without those of background classes.

    For labelme, background is what no shape covers. Its polygons have no holes: slits of no width lead into them.
    """
    height, width = segmentation.labels.shape
    polygons = trace_polygons(segmentation.labels, len(segmentation.classes), simplify=options.simplify)
    shapes: list[dict[str, Any]] = [
        {
            "label": segmentation.classes[label],
            "points": shorten_numbers(join_holes(rings)),
            "group_id": None,
            "description": "",
            "shape_type": "polygon",
            "flags": {},
            "mask": None,
        }
        for label, rings in polygons
        if segmentation.classes[label].lower() not in UNPAINTED_CLASSES
    ]
    return {
        "version": VERSION,
        "flags": {},
        "imagePath": file_name,
        "imageData": None,
        "imageHeight": height,
        "imageWidth": width,
        "shapes": shapes,
    }


def encode_labelme(segmentation: Segmented, file_name: str, options: FormatOptions, mark: Mark) -> bytes:
    """Encode the regions of a segmentation as a file of labelme, which lies beside its image or refers to it.

    labelme keeps the mark when it saves corrections: a seal tells them from a file that may be replaced.
    """
    content = {"software": str(mark), **labelme_annotations(segmentation, file_name, options)}
    return mark.seal(json.dumps(content, indent=1).encode())
