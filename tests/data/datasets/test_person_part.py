from __future__ import annotations

from pathlib import Path

import numpy as np

from atrous.data import open_dataset
from tests.data_fixtures import Write, photograph


def test_official_lists(tmp_path: Path, write: Write) -> None:
    write(tmp_path / "JPEGImages/a.jpg", photograph(0))
    write(tmp_path / "pascal_person_part_gt/a.png", np.full((24, 32), 6, np.uint8))
    write(tmp_path / "pascal_person_part_trainval_list/train.txt", "a\n")
    assert open_dataset(f"person_part:{tmp_path}")[0].labels.max() == 6
