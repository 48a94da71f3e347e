from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from atrous import AtrousError
from atrous.data import Item, MaskReader, SegmentationDataset, open_dataset
from atrous.imaging.labels import voc_color_map
from tests.data_fixtures import Write, photograph
from tests.pictures import bomb


class TestDataset:
    def test_a_map_style_data_set(self, own: Path) -> None:
        dataset = open_dataset(own)
        assert (dataset.split, dataset.splits, len(dataset)) == ("train", ("train", "val"), 4)
        assert [sample.name for sample in dataset] == list(dataset.names)
        assert dataset[-1].name == "3"
        assert dataset.select([1, 1, 0]).names == ("1", "1", "0")

    def test_sizes_must_agree(self, tmp_path: Path, write: Write) -> None:
        image = write(tmp_path / "a.jpg", photograph(0))
        mask = write(tmp_path / "a.png", np.zeros((32, 24), np.uint8))
        dataset = _of(Item("a", image, mask))
        with pytest.raises(AtrousError, match=r"a\.jpg is 32 x 24, but its mask .*a\.png is 24 x 32.*EXIF"):
            dataset[0]

    def test_images_without_labels(self, tmp_path: Path, write: Write) -> None:
        dataset = _of(Item("a", write(tmp_path / "a.jpg", photograph(0)), None))
        assert (dataset[0].labels == 255).all()
        assert dataset[0].mask_path is None
        with pytest.raises(AtrousError, match="has no labels"):
            dataset.labels(0)

    def test_an_ignore_index_that_is_a_class(self) -> None:
        with pytest.raises(AtrousError, match="the ignore index 1 is also the label of 'b'"):
            SegmentationDataset("x", "train", (), ("a", "b"), voc_color_map(2), MaskReader(("a", "b")), ignore_index=1)

    @pytest.mark.parametrize("content", [b"", b"hello, a text", bomb(50_000, 50_000), b"\xff\xd8\xff\xe0"])
    def test_hostile_images_are_named(self, tmp_path: Path, write: Write, content: bytes) -> None:
        mask = write(tmp_path / "a.png", np.zeros((4, 4), np.uint8))
        with pytest.raises(AtrousError, match=r"image\.jpg"):
            _of(Item("a", write(tmp_path / "image.jpg", content), mask))[0]
        with pytest.raises(AtrousError, match=r"absent\.jpg: no such file"):
            _of(Item("a", tmp_path / "absent.jpg", mask))[0]

    def test_images_of_every_kind_become_rgb(self, tmp_path: Path, write: Write) -> None:
        pixels = photograph(0)
        exif = Image.Exif()
        exif[0x0112] = 6
        kinds = {
            "gray.png": Image.fromarray(pixels[..., 0]),
            "alpha.png": Image.fromarray(np.dstack([pixels, np.full((24, 32, 1), 128, np.uint8)])),
            "cmyk.jpg": Image.fromarray(pixels).convert("CMYK"),
            "deep.png": Image.fromarray(pixels[..., 0].astype(np.uint16) * 257),
            "turned.jpg": Image.fromarray(np.rot90(pixels).copy()),
        }
        mask = write(tmp_path / "mask.png", np.zeros((24, 32), np.uint8))
        for name, image in kinds.items():
            image.save(tmp_path / name, **({"exif": exif} if name == "turned.jpg" else {}))
            sample = _of(Item(name, tmp_path / name, mask))[0]
            assert sample.image.shape == (24, 32, 3), name


def _of(item: Item) -> SegmentationDataset:
    classes = ("background", "road")
    return SegmentationDataset("small", "train", (item,), classes, voc_color_map(2), MaskReader(classes))
