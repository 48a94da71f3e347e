"""Conversion to a folder and back, resumed after an error; the quick check of files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from atrous.data import open_dataset
from atrous.data.convert import check_files, convert
from atrous.data.inspect import open_splits
from tests.data_fixtures import Write


class TestConvert:
    def test_to_a_folder_and_back(self, shared_data: Path, tmp_path: Path) -> None:
        source = open_dataset(f"ade20k:{shared_data}/samples/ade20k?split=val")
        out = convert([source], tmp_path / "out")
        back = open_dataset(f"{out}?split=val")
        assert (back.classes, back.colors, back.names) == (source.classes, source.colors, source.names)
        for ours, theirs in zip(back, source, strict=True):
            np.testing.assert_array_equal(ours.image, theirs.image)
            np.testing.assert_array_equal(ours.labels, theirs.labels)

    def test_an_interrupted_conversion_resumes(self, own: Path, tmp_path: Path) -> None:
        splits = open_splits(str(own))
        (own / "masks/5.png").rename(own / "5.png")
        with pytest.raises(ValueError, match=r"5\.png"):
            convert(splits, tmp_path / "out")
        assert not (tmp_path / "out/classes.yaml").exists()
        (own / "5.png").rename(own / "masks/5.png")
        convert(splits, tmp_path / "out")
        assert [dataset.names for dataset in open_splits(str(tmp_path / "out"))] == [each.names for each in splits]

    def test_check(self, own: Path, write: Write) -> None:
        assert list(check_files(open_dataset(own))) == []
        write(own / "masks/1.png", np.zeros((5, 5), np.uint8))
        (own / "masks/2.png").write_bytes(b"")
        dataset = open_dataset(own)
        (own / "images/3.jpg").unlink()
        found = list(check_files(dataset))
        assert len(found) == 3
        assert all(part in line for part, line in zip(("5 x 5", "empty", "no such file"), found, strict=True))
