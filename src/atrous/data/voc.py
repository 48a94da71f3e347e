"""PASCAL VOC 2012: 20 kinds of things and the background.

Source: Everingham, Eslami, Van Gool, Williams, Winn, Zisserman: The PASCAL Visual Object Classes Challenge, IJCV 2015.
"""

from __future__ import annotations

from atrous.data.labels import bit_colours

CLASSES = (
    "background",
    "aeroplane",
    "bicycle",
    "bird",
    "boat",
    "bottle",
    "bus",
    "car",
    "cat",
    "chair",
    "cow",
    "diningtable",
    "dog",
    "horse",
    "motorbike",
    "person",
    "pottedplant",
    "sheep",
    "sofa",
    "train",
    "tvmonitor",
)
COLOURS = bit_colours(len(CLASSES))
