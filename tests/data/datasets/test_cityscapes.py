from __future__ import annotations

from pathlib import Path

import numpy as np

from atrous.data import open_dataset
from atrous.data.datasets import cityscapes
from tests.data_fixtures import Write, photograph


def test_label_ids_become_classes(tmp_path: Path, write: Write) -> None:
    stem = "bonn_000000_000019"
    write(tmp_path / f"leftImg8bit/test/bonn/{stem}_leftImg8bit.png", photograph(0, (2, 17)))
    write(tmp_path / f"leftImg8bit/train/bonn/{stem}_leftImg8bit.png", photograph(0, (2, 17)))
    ids = np.arange(34, dtype=np.uint8).reshape(2, 17)
    write(tmp_path / f"gtFine/train/bonn/{stem}_gtFine_labelIds.png", ids)
    labels = open_dataset(f"cityscapes:{tmp_path}")[0].labels.reshape(-1)
    assert [int(np.flatnonzero(labels == label)[0]) for label in range(19)] == list(cityscapes.LABEL_IDS)
    assert (labels == 255).sum() == 15
    test = open_dataset(f"cityscapes:{tmp_path}?split=test")
    assert test.names == (f"bonn/{stem}",)
    assert test[0].mask_path is None
