"""Conversion to a folder and back, resumed after an error; the quick check of files."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from atrous.data import open_dataset
from atrous.data.convert import check_files, convert
from atrous.data.inspect import open_splits
from atrous.errors import AtrousError
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

    @pytest.mark.skipif(os.name == "nt", reason="permissions of POSIX")
    def test_the_permissions_of_linked_images_stay(self, own: Path, tmp_path: Path) -> None:
        for image in (own / "images").iterdir():
            image.chmod(0o600)
        out = convert(open_splits(str(own)), tmp_path / "out")
        assert (out / "images/0.jpg").samefile(own / "images/0.jpg")
        assert {image.stat().st_mode & 0o777 for image in (own / "images").iterdir()} == {0o600}

    def test_another_mapping_is_refused(self, own: Path, tmp_path: Path) -> None:
        out = convert(open_splits(str(own)), tmp_path / "out")
        before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
        yaml = own / "classes.yaml"
        yaml.write_text(yaml.read_text().replace("[background, road, tree]", "[road, background, tree]"))
        with pytest.raises(AtrousError, match=r"classes, entry 0: background there, road now.*another folder with -o"):
            convert(open_splits(str(own)), out)
        yaml.write_text(
            "classes: [{name: background, values: [1]}, {name: road, values: [0]}, tree]\n"
            "splits: {train: train.txt, val: val.txt}\n"
        )
        with pytest.raises(AtrousError, match=r"values, entry 0: \[0, 0\] there, \[0, 1\] now"):
            convert(open_splits(str(own)), out)
        assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before

    def test_masks_of_another_origin_are_refused(self, own: Path, tmp_path: Path, write: Write) -> None:
        shutil.copytree(own, other := tmp_path / "other" / "own")
        out = convert(open_splits(str(own)), tmp_path / "out")
        with pytest.raises(AtrousError, match="contains the split 'train' of"):
            convert(open_splits(str(other)), out)
        (out / "conversion.json").unlink()
        with pytest.raises(AtrousError, match="mapping is unknown"):
            convert(open_splits(str(own)), out)
        (out / "conversion.json").write_text("[]")
        with pytest.raises(AtrousError, match="not a record of a conversion"):
            convert(open_splits(str(own)), out)

    def test_nothing_is_converted_in_place(self, own: Path) -> None:
        before = {path: path.read_bytes() for path in own.rglob("*") if path.is_file()}
        with pytest.raises(AtrousError, match="contains the files of own itself"):
            convert(open_splits(str(own)), own)
        assert {path: path.read_bytes() for path in own.rglob("*") if path.is_file()} == before

    def test_splits_are_added_and_newer_masks_converted(self, own: Path, tmp_path: Path, write: Write) -> None:
        out = convert(open_splits(f"{own}?split=train"), tmp_path / "out")
        write(own / "masks/0.png", np.full((24, 32), 2, np.uint8))
        later = (out / "masks/0.png").stat().st_mtime + 10
        os.utime(own / "masks/0.png", (later, later))
        convert(open_splits(f"{own}?split=val"), out)
        convert(open_splits(f"{own}?split=train"), out)
        train, val = open_splits(str(out))
        assert (len(train), len(val)) == (4, 2)
        assert (train[0].labels == 2).all()

    def test_check(self, own: Path, write: Write) -> None:
        assert list(check_files(open_dataset(own))) == []
        write(own / "masks/1.png", np.zeros((5, 5), np.uint8))
        (own / "masks/2.png").write_bytes(b"")
        dataset = open_dataset(own)
        (own / "images/3.jpg").unlink()
        found = list(check_files(dataset))
        assert len(found) == 3
        assert all(part in line for part, line in zip(("5 x 5", "empty", "no such file"), found, strict=True))
