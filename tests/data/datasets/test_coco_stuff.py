from __future__ import annotations

import json
from pathlib import Path

from atrous.data.datasets import coco_stuff


def test_classes_match_the_panoptic_categories(shared_data: Path) -> None:
    content = json.loads((shared_data / "samples/coco_panoptic/panoptic_examples.json").read_text())
    for category in content["categories"]:
        if category["id"] <= 182:
            assert coco_stuff.CLASSES[category["id"] - 1] == category["name"]
    assert len(coco_stuff.CLASSES) == 182
