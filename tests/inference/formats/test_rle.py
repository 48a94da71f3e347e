"""Run lengths equal those of pycocotools, byte by byte."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from pycocotools import mask as coco_mask

from atrous.inference.formats.rle import encode_runs
from tests.inference.formats.maps import label_maps, smooth_map


def _check(labels: np.ndarray, num_classes: int) -> None:
    runs = {item.label: item for item in encode_runs(labels, num_classes)}
    assert sorted(runs) == [label for label in np.unique(labels).tolist() if label < num_classes]
    for label, item in runs.items():
        expected = coco_mask.encode(np.asfortranarray(labels == label, np.uint8))
        assert item.counts == expected["counts"].decode()
        assert item.area == coco_mask.area(expected)
        assert list(item.box) == coco_mask.toBbox(expected).tolist()


@given(label_maps())
@settings(max_examples=150, deadline=None)
def test_random_maps(case: tuple[np.ndarray, int]) -> None:
    _check(*case)


def test_a_large_map() -> None:
    _check(smooth_map(375, 500, 21), 21)
    labels = np.zeros((3000, 1000), np.uint16)  # runs of more than 2^16, labels of more than 8 bits
    labels[:, 400:] = 300
    labels[17, 5] = 65535
    _check(labels, 301)


def test_ignored_pixels_alone() -> None:
    assert encode_runs(np.full((4, 5), 255, np.uint8), 21) == []
