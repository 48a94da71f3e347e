from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from atrous.data.coco_annotations import Region, decode_runs, draw_region
from atrous.imaging.labels import pack_rgb, read_raw_mask


def test_run_lengths_are_the_panoptic_segments(shared_data: Path) -> None:
    """The two JSON files say the same of 50 regions, one in packed run lengths, one in a PNG."""
    root = shared_data / "samples/coco_panoptic"
    objects = json.loads((root / "panoptic_coco_detection_format.json").read_text())["annotations"]
    for image in json.loads((root / "panoptic_examples.json").read_text())["annotations"]:
        stored = read_raw_mask(root / "panoptic_examples" / image["file_name"])
        ids = pack_rgb(np.ascontiguousarray(stored[..., ::-1]))
        segments = {(ids == part["id"]).tobytes() for part in image["segments_info"]}
        found = [each for each in objects if each["image_id"] == image["image_id"]]
        assert len(found) == len(segments)
        for each in found:
            region = Region(1, runs=decode_runs(each["segmentation"]["counts"]))
            mask = draw_region(region, ids.shape)
            assert mask.sum() == each["area"]
            assert np.ascontiguousarray(mask).tobytes() in segments
