"""Conversion to a folder and back, resumed after an error; the quick check of files."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image

from atrous.data import open_dataset
from atrous.data.convert import check_files, convert
from atrous.data.inspect import open_splits
from atrous.errors import AtrousError
from tests.data_fixtures import Write, photograph


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

    @pytest.mark.skipif(os.name == "nt", reason="symbolic links need a privilege")
    def test_images_that_are_symbolic_links(self, own: Path, tmp_path: Path) -> None:
        (own / "images").rename(own / "stored")
        (own / "images").mkdir()
        for image in (own / "stored").iterdir():
            (own / "images" / image.name).symlink_to(Path("..", "stored", image.name))
        out = convert(open_splits(str(own)), tmp_path / "some" / "where")
        np.testing.assert_array_equal(open_dataset(out)[0].image, open_dataset(own)[0].image)

    def test_names_with_spaces(self, own: Path, tmp_path: Path) -> None:
        for folder, suffix in (("images", "jpg"), ("masks", "png")):
            (own / folder / f"1.{suffix}").rename(own / folder / f"0 1.{suffix}")
        (own / "train.txt").write_text("0\n0 1\n")
        out = convert(open_splits(str(own)), tmp_path / "out")
        assert open_dataset(own).names == open_dataset(out).names == ("0", "0 1")

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

    @pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.webp", "a.tif"])
    def test_check_follows_the_orientation(self, name: str, tmp_path: Path, write: Write) -> None:
        exif = Image.Exif()
        exif[ExifTags.Base.Orientation] = 6
        write(tmp_path / "classes.yaml", "classes: [background, road]")
        write(tmp_path / "images" / name, photograph(0, (12, 8)), exif=exif)
        write(tmp_path / "masks/a.png", np.zeros((8, 12), np.uint8))
        dataset = open_dataset(tmp_path)
        assert dataset[0].image.shape[:2] == dataset[0].labels.shape == (8, 12)
        assert list(check_files(dataset)) == []
        write(tmp_path / "masks/a.png", np.zeros((8, 12), np.uint8), exif=exif)
        assert len(list(check_files(dataset))) == 1
