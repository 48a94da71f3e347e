"""Your own data: any names, any depth, three ways to split, and errors for files that do not fit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from atrous import AtrousError
from atrous.data import open_dataset
from atrous.data.datasets.folder import draw_fractions, write_classes_yaml
from tests.data_fixtures import Write, photograph


def masks_of(value: int) -> np.ndarray:
    return np.full((24, 32), value, np.uint8)


def test_lists(own: Path) -> None:
    assert open_dataset(own).names == ("0", "1", "2", "3")
    assert open_dataset(f"{own}?split=val").names == ("4", "5")
    assert len(open_dataset(f"folder:{own}?split=all")) == 6
    assert set(np.unique(open_dataset(own)[2].labels)) == {1, 2, 255}


def test_lists_of_pairs_and_of_files(own: Path) -> None:
    (own / "train.txt").write_text("0.jpg masks/0.png\n1.jpg 7\n")
    assert open_dataset(own).names == ("0", "1")


def test_an_ignore_index_that_no_mask_holds(own: Path, write: Write) -> None:
    write(own / "classes.yaml", "classes: [background, road, tree]\nignore_index: 65535")
    with pytest.raises(AtrousError, match=r"ignore_index.*65534"):
        open_dataset(own)


def test_usual_lists_are_found(own: Path, write: Write) -> None:
    write(own / "classes.yaml", "classes: [background, road, tree]")
    assert open_dataset(own).splits == ("train", "val")


def test_nested_folders_are_splits(tmp_path: Path, write: Write) -> None:
    for place in ("train/a/x", "train/b/x", "val/a/x"):
        write(tmp_path / f"imgs/{place}.PNG", photograph(0))
        write(tmp_path / f"gt/{place}.png", masks_of(0))
    write(tmp_path / "classes.yaml", "classes: [background, road]")
    assert open_dataset(tmp_path).names == ("train/a/x", "train/b/x")
    assert open_dataset(f"{tmp_path}?split=val").names == ("val/a/x",)
    write(tmp_path / "classes.yaml", "classes: [background, road]\nsplits: {first: train/a, second: train/b/}")
    assert open_dataset(f"{tmp_path}?split=second").names == ("train/b/x",)


def test_splits_above_images_and_masks(tmp_path: Path, write: Write) -> None:
    for split in ("train", "val"):
        write(tmp_path / f"{split}/pictures/a.jpg", photograph(0))
        write(tmp_path / f"{split}/truth/a.png", masks_of(1))
    write(
        tmp_path / "classes.yaml", "classes: [background, road]\nimages: '{split}/pictures'\nmasks: '{split}/truth'\n"
    )
    dataset = open_dataset(f"{tmp_path}?split=val")
    assert dataset.names == ("val/a",)
    assert dataset.splits == ("train", "val")
    assert dataset[0].image_path == tmp_path / "val/pictures/a.jpg"


@pytest.mark.parametrize("ending", ["_mask", "_label", "_L"])
def test_endings_are_found(tmp_path: Path, write: Write, ending: str) -> None:
    for name in ("a b", "c.d"):
        write(tmp_path / f"images/{name}.jpg", photograph(0))
        write(tmp_path / f"masks/{name}{ending}.png", masks_of(1))
    write(tmp_path / "classes.yaml", "classes: [background, road]")
    dataset = open_dataset(tmp_path)
    assert dataset.names == ("a b", "c.d")
    assert not dataset.listing_errors


def test_endings_that_are_given(tmp_path: Path, write: Write) -> None:
    write(tmp_path / "images/a_rgb.jpg", photograph(0))
    write(tmp_path / "masks/a-truth.png", masks_of(1))
    write(tmp_path / "classes.yaml", "classes: [background, road]\nimage_ending: _rgb\nmask_ending: -truth\n")
    assert open_dataset(tmp_path).names == ("a",)


def test_fractions(own: Path, write: Write) -> None:
    write(own / "classes.yaml", "classes: [a, b, c]\nsplits: {train: 0.5, val: 0.34}\nseed: 3\n")
    train, val = open_dataset(own), open_dataset(f"{own}?split=val")
    assert (len(train), len(val)) == (3, 2)
    assert not set(train.names) & set(val.names)
    assert open_dataset(own).names == train.names
    write(own / "classes.yaml", "classes: [a, b, c]\nsplits: {val: val.txt, train: 1.0}\n")
    assert open_dataset(own).names == ("0", "1", "2", "3")  # the rest


@given(
    count=st.integers(0, 60),
    fractions=st.lists(st.floats(0, 0.33), min_size=1, max_size=3),
    seed=st.integers(0, 9),
)
def test_fractions_share_nothing_and_keep_their_size(count: int, fractions: list[float], seed: int) -> None:
    names = [f"image {number}" for number in range(count)]
    drawn = draw_fractions(names, {str(n): fraction for n, fraction in enumerate(fractions)}, seed)
    dealt = [name for split in drawn.values() for name in split]
    assert len(dealt) == len(set(dealt))
    for split, fraction in zip(drawn.values(), fractions, strict=True):
        assert abs(len(split) - fraction * count) <= 1
        assert list(split) == sorted(split, key=names.index)


class TestCodings:
    def test_255_is_ignored_if_it_is_listed(self, tmp_path: Path, write: Write, caplog) -> None:
        write(tmp_path / "classes.yaml", "classes: [road, car]\nignore: [255]\n")
        write(tmp_path / "images/0.png", masks_of(0))
        write(tmp_path / "masks/0.png", np.array([[0, 255, 255, 0]], np.uint8))
        assert open_dataset(tmp_path).labels(0).tolist() == [[0, 255, 255, 0]]
        assert not caplog.messages

    def test_black_and_white_is_said_once(self, tmp_path: Path, write: Write, caplog) -> None:
        write(tmp_path / "classes.yaml", "classes: [road, car]\n")
        write(tmp_path / "images/0.png", masks_of(0))
        write(tmp_path / "masks/0.png", np.array([[0, 255]], np.uint8))
        for _ in range(2):
            assert open_dataset(tmp_path).labels(0).tolist() == [[0, 1]]
        (message,) = caplog.messages
        assert "0 is taken for 'road' and 255 for 'car'" in message
        assert "`values: [255]`" in message

    def test_every_mask_is_looked_at(self, tmp_path: Path, write: Write) -> None:
        write(tmp_path / "classes.yaml", "classes: [road, car]\n")
        for number in range(70):
            write(tmp_path / f"images/{number:02}.png", masks_of(0))
            write(tmp_path / f"masks/{number:02}.png", masks_of(1 if number == 63 else 255))
        assert open_dataset(tmp_path).labels(0)[0, 0] == 255

    def test_black_and_white(self, tmp_path: Path, write: Write) -> None:
        for number in range(3):
            write(tmp_path / f"images/{number}.jpg", photograph(number))
            write(tmp_path / f"masks/{number}.png", masks_of(255 * (number % 2)))
        write(tmp_path / "classes.yaml", "classes: [background, crack]")
        assert [int(sample.labels[0, 0]) for sample in open_dataset(tmp_path)] == [0, 1, 0]
        write(tmp_path / "masks/2.png", masks_of(1))  # 255 is what is ignored, then
        assert [int(sample.labels[0, 0]) for sample in open_dataset(tmp_path)] == [0, 255, 1]

    def test_values_and_ignored_ones(self, own: Path, write: Write) -> None:
        write(
            own / "classes.yaml",
            "classes:\n  - {name: ground, values: [0, 1]}\n  - {name: tree, values: [2], color: '#00ff7f'}\n",
        )
        dataset = open_dataset(f"{own}?split=all")
        assert dataset.colors[1] == (0, 255, 127)
        assert set(np.unique(dataset[2].labels)) == {0, 1, 255}

    def test_colors(self, tmp_path: Path, write: Write) -> None:
        write(tmp_path / "images/a.jpg", photograph(0, (1, 3)))
        write(tmp_path / "masks/a.png", np.array([[[255, 0, 0], [0, 0, 0], [255, 255, 255]]], np.uint8))
        write(
            tmp_path / "classes.yaml",
            "classes:\n  - {name: ground, color: [0, 0, 0]}\n  - {name: roof, color: '#ff0000'}\n"
            "ignore: ['#ffffff', 255]\n",
        )
        assert open_dataset(tmp_path)[0].labels.tolist() == [[1, 0, 255]]

    def test_a_value_without_a_class_tells_the_remedy(self, own: Path, write: Write) -> None:
        write(own / "masks/1.png", masks_of(128))
        with pytest.raises(AtrousError, match=r"1\.png: value 128 .*Assign it to a class in classes\.yaml"):
            open_dataset(own)[1]


def test_files_without_a_partner_are_listing_errors(own: Path, write: Write) -> None:
    (own / "masks/0.png").unlink()
    write(own / "masks/x.png", masks_of(0))
    write(own / "images/5.png", photograph(9))
    dataset = open_dataset(f"{own}?split=all")
    assert len(dataset) == 5
    for part in (
        "0.jpg: the image has no mask",
        "x.png: the mask has no image",
        "5.png: 5.jpg has the same name without suffix",
    ):
        assert any(part in error for error in dataset.listing_errors)
    assert any("train.txt: '0' is listed, but there is no pair" in error for error in dataset.listing_errors)


class TestInit:
    def test_values(self, own: Path) -> None:
        (own / "classes.yaml").unlink()
        path = write_classes_yaml(own)
        dataset = open_dataset(own)
        assert dataset.classes == ("class_0", "class_1", "class_2")
        with pytest.raises(AtrousError, match="exists already"):
            write_classes_yaml(own)
        assert path == own / "classes.yaml"

    def test_a_fifth_is_drawn_for_validation_unless_splits_exist(self, tmp_path: Path, write: Write) -> None:
        for number in range(10):
            write(tmp_path / f"images/{number}.jpg", photograph(number))
            write(tmp_path / f"masks/{number}.png", np.full((2, 3), number % 3, np.uint8))
        path = write_classes_yaml(tmp_path)
        assert [len(open_dataset(f"{tmp_path}?split={split}")) for split in ("train", "val")] == [8, 2]
        path.unlink()
        for split, names in (("train", "0 1 2 3"), ("val", "4")):
            (tmp_path / f"{split}.txt").write_text("\n".join(names.split()))
        write_classes_yaml(tmp_path)
        assert [len(open_dataset(f"{tmp_path}?split={split}")) for split in ("train", "val")] == [4, 1]

    def test_black_and_white_and_colors(self, tmp_path: Path, write: Write) -> None:
        write(tmp_path / "images/a.jpg", photograph(0, (1, 2)))
        write(tmp_path / "masks/a.png", np.array([[0, 255]], np.uint8))
        write_classes_yaml(tmp_path)
        assert open_dataset(tmp_path)[0].labels.tolist() == [[0, 1]]
        (tmp_path / "classes.yaml").unlink()
        write(tmp_path / "masks/a.png", np.array([[[9, 0, 0], [0, 7, 0]]], np.uint8))
        write_classes_yaml(tmp_path)
        assert open_dataset(tmp_path)[0].labels.tolist() == [[1, 0]]


@pytest.mark.parametrize("images", ["pictures/{split}", "x" * 5000, "a\\0b"])
def test_folders_that_do_not_exist(images: str, own: Path, write: Write) -> None:
    write(own / "classes.yaml", f'classes: [background, road, tree]\nimages: "{images}"\n')
    with pytest.raises(AtrousError, match=r"expected .* in this folder, but it contains"):
        open_dataset(own)
