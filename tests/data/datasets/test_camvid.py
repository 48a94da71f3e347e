from __future__ import annotations

from pathlib import Path

import numpy as np

from atrous.data import open_dataset
from tests.data_fixtures import Write, photograph


def test_lists_of_the_tutorial(tmp_path: Path, write: Write) -> None:
    write(tmp_path / "test/0001.png", photograph(0, (1, 12)))
    write(tmp_path / "testannot/0001.png", np.arange(12, dtype=np.uint8)[None])
    write(tmp_path / "test.txt", "/SegNet/CamVid/test/0001.png /SegNet/CamVid/testannot/0001.png\n")
    assert open_dataset(f"camvid:{tmp_path}?split=test")[0].labels.tolist() == [[*range(11), 255]]
