from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from atrous.data import open_dataset
from tests.data_fixtures import Write, photograph


def test_by_list_and_from_459_classes(tmp_path: Path, write: Write) -> None:
    scipy_io = pytest.importorskip("scipy.io")
    root = tmp_path / "VOC2010"
    write(root / "JPEGImages/2008_000002.jpg", photograph(0, (2, 3)))
    write(root / "ImageSets/Main/train.txt", "2008_000002\n2008_000003\n")
    (root / "trainval").mkdir()
    labeled = np.array([[1, 2, 3], [4, 0, 3]], np.uint16)
    scipy_io.savemat(root / "trainval/2008_000002.mat", {"LabelMap": labeled})
    write(root / "labels.txt", "1: accordion\n2: aeroplane\n3: potted plant\n4: wood\n")
    dataset = open_dataset(f"pascal_context:{tmp_path}")
    assert len(dataset) == 1  # VOC lists images that Context left out
    assert dataset[0].labels.tolist() == [[0, 1, 16], [59, 0, 16]]
    reduced = open_dataset(f"pascal_context:{tmp_path}?classes=59")
    assert reduced[0].labels.tolist() == [[255, 0, 15], [58, 255, 15]]
