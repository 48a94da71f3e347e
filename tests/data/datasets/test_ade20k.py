from __future__ import annotations

from pathlib import Path

import numpy as np

from atrous.data import open_dataset
from atrous.data.datasets import ade20k
from tests.data_fixtures import Write, photograph


def test_official_layout(tmp_path: Path, write: Write) -> None:
    root = tmp_path / "ADEChallengeData2016"
    for place, prefix in (("training", "train"), ("validation", "val")):
        write(root / f"images/{place}/ADE_{prefix}_00000001.jpg", photograph(0, (1, 151)))
        write(root / f"annotations/{place}/ADE_{prefix}_00000001.png", np.arange(151, dtype=np.uint8)[None])
    dataset = open_dataset(f"ade20k:{tmp_path}")
    assert dataset[0].labels.tolist() == [[255, *range(150)]]
    assert dataset.splits == ("train", "val")


def test_classes_match_the_published_table(shared_data: Path) -> None:
    lines = (shared_data / "samples/ade20k/objectInfo150.csv").read_text().splitlines()[1:]
    for name, line in zip(ade20k.CLASSES, lines, strict=True):
        assert line.split(",", 5)[5].startswith(name.split()[0])
