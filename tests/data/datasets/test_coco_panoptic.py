from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from atrous import AtrousError
from atrous.data import open_dataset
from tests.data_fixtures import Write, photograph


def test_segments_that_are_not_in_the_json_file(tmp_path: Path, write: Write) -> None:
    write(tmp_path / "val2017/1.jpg", photograph(0, (2, 2)))
    write(tmp_path / "annotations/panoptic_val2017/1.png", np.array([[[1, 2, 0], [0, 0, 0]]] * 2, np.uint8))
    content = {
        "categories": [{"id": 7, "name": "train", "color": [1, 2, 3]}, {"id": 9, "name": "boat", "color": [3, 2, 1]}],
        "annotations": [{"file_name": "1.png", "segments_info": [{"id": 513, "category_id": 9}]}],
    }
    path = write(tmp_path / "annotations/panoptic_val2017.json", json.dumps(content))
    dataset = open_dataset(f"coco_panoptic:{tmp_path}?split=val2017")
    assert dataset[0].labels.tolist() == [[1, 255], [1, 255]]
    path.write_text(json.dumps(content).replace("513", "514"))
    with pytest.raises(AtrousError, match=r"1\.png: segment 513 is not among .* \(2 px in unknown segments\)"):
        open_dataset(f"coco_panoptic:{tmp_path}?split=val2017")[0]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("513", '"513"'),
        ("513", "-1"),
        ("513", "null"),
        ("[1, 2, 3]", "[1, 2, 300]"),
        ("[1, 2, 3]", "[1e309, 2, 3]"),
    ],
)
def test_numbers_that_no_segment_or_color_has(before: str, after: str, tmp_path: Path, write: Write) -> None:
    write(tmp_path / "val2017/1.jpg", photograph(0, (2, 2)))
    write(tmp_path / "annotations/panoptic_val2017/1.png", np.zeros((2, 2, 3), np.uint8))
    content = {
        "categories": [{"id": 7, "name": "train", "color": [1, 2, 3]}, {"id": 9, "name": "boat", "color": [3, 2, 1]}],
        "annotations": [{"file_name": "1.png", "segments_info": [{"id": 513, "category_id": 9}]}],
    }
    write(tmp_path / "annotations/panoptic_val2017.json", json.dumps(content).replace(before, after, 1))
    with pytest.raises(AtrousError, match=r"panoptic_val2017\.json: an entry is not as in COCO's annotations"):
        open_dataset(f"coco_panoptic:{tmp_path}?split=val2017")
