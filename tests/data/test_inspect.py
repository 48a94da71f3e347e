"""A look at everything finds what is wrong, and says nothing of what is right."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from atrous.data import open_dataset
from atrous.data.convert import check_files, convert
from atrous.data.inspect import Totals, inspect, open_splits
from atrous.data.report import write_html
from atrous.imaging.draw import blend_labels, contact_sheet
from tests.data_fixtures import Write, photograph

CAMVID_WEIGHTS = [0.2793, 0.2017, 4.7865, 0.1490, 1.0000, 0.4217, 3.8467, 1.9736, 0.7889, 6.3747, 8.8587]


def test_median_frequency_weights_of_camvid(shared_data: Path) -> None:
    inspection = inspect([open_dataset(f"camvid:{shared_data}/camvid?split=train")])
    assert len(inspection.looks) == 367
    np.testing.assert_allclose(inspection.totals().median_frequency_weights(), CAMVID_WEIGHTS, atol=1e-3)
    assert not inspection.findings
    assert inspection.sizes() == {(480, 360): 367}
    assert inspection.storage() == {"PNG gray": 367}


def test_nothing_wrong(own: Path) -> None:
    inspection = inspect(open_splits(str(own)))
    assert inspection.findings == ()
    assert [dataset.split for dataset in inspection.datasets] == ["train", "val"]
    total = inspection.totals()
    assert total.pixels.tolist() == [2 * 16 * 32, 6 * 4 * 32 + 2 * 16 * 32, 2 * 16 * 32]
    assert total.holding.tolist() == [2, 6, 2]
    assert total.ignored == 6 * 4 * 32


def test_frequencies_by_their_definition(own: Path) -> None:
    dataset = open_dataset(own)
    maps = [dataset.labels(index) for index in range(len(dataset))]
    expected = []
    for label in range(3):
        holding = [each for each in maps if (each == label).any()]
        expected.append(sum((each == label).sum() for each in holding) / sum(each.size for each in holding))
    totals = inspect([dataset]).totals()
    np.testing.assert_allclose(totals.frequencies(), expected)
    np.testing.assert_allclose(totals.median_frequency_weights(), np.median(expected) / expected)


def test_weights_where_nothing_was_seen() -> None:
    assert np.isnan(Totals.of([], 3).median_frequency_weights()).all()


@pytest.fixture
def ten_faults(own: Path, write: Write) -> dict[str, str]:
    """Ten things done to a folder that was right; of each a part of what must be said."""
    for number in range(6, 13):
        write(own / f"images/{number}.jpg", photograph(number))
        write(own / f"masks/{number}.png", np.full((24, 32), 1, np.uint8))
    write(own / "train.txt", "".join(f"{n}\n" for n in (*range(4), *range(6, 13), 77)))
    (own / "masks/0.png").unlink()
    write(own / "masks/orphan.png", np.zeros((24, 32), np.uint8))
    write(own / "masks/1.png", np.zeros((32, 24), np.uint8))
    write(own / "masks/2.png", np.full((24, 32), 128, np.uint8))
    Image.fromarray(np.random.default_rng(0).integers(0, 3, (24, 32), np.uint8)).save(own / "masks/3.png")
    (own / "masks/3.png").write_bytes((own / "masks/3.png").read_bytes()[:120])
    (own / "images/6.jpg").write_bytes((own / "images/6.jpg").read_bytes()[:500])
    (own / "images/4.jpg").write_bytes((own / "images/7.jpg").read_bytes())
    write(own / "masks/8.png", photograph(1))
    write(own / "masks/9.png", "this is a text")
    return {
        "0.jpg": "the image has no mask",
        "orphan.png": "the mask has no image",
        "1.png": "24 x 32",
        "2.png": "value 128 (768 px)",
        "masks/3.png": "truncated",
        "6.jpg": "truncated",
        "4.jpg": "is the same picture as",
        "8.png": "this mask is in color",
        "9.png": "not an image",
        "train.txt": "'77' is listed",
    }


def test_ten_planted_faults_are_found(own: Path, ten_faults: dict[str, str]) -> None:
    inspection = inspect(open_splits(str(own)))
    messages = [finding.message for finding in inspection.serious]
    for file, part in ten_faults.items():
        assert any(file in message and part in message for message in messages), (file, part)
    assert len(messages) == 11  # '0' is listed too, and has lost its mask
    assert sum("'0' is listed" in message for message in messages) == 1


def test_what_should_be_known(own: Path, write: Write) -> None:
    for number in range(6):
        write(own / f"masks/{number}.png", np.full((24, 32), 255 if number == 3 else 0, np.uint8))
    Image.fromarray(np.zeros((24, 32), np.uint8)).convert("P").save(own / "masks/0.png")
    write(own / "images/1.png", photograph(2))
    (own / "images/1.jpg").unlink()
    Image.fromarray(photograph(2)).save(own / "images/2.png")
    (own / "images/2.jpg").unlink()
    inspection = inspect(open_splits(str(own)))
    assert not inspection.serious
    notes = {finding.kind: finding.message for finding in inspection.findings}
    assert notes.keys() == {"nothing", "never seen", "storage", "twice"}
    assert "road, tree" in notes["never seen"]
    assert "stored as 0 and 255?" in notes["never seen"]
    assert "stored as PNG palette, most as PNG gray" in notes["storage"]


def test_a_list_with_repeats_is_no_duplicate(own: Path) -> None:
    assert not inspect([open_dataset(own).select([0, 0, 1, 2])]).findings


def test_report(own: Path, write: Write) -> None:
    write(own / "classes.yaml", "classes: ['<script>alert(1)</script>', road, tree]")
    inspection = inspect(open_splits(str(own)))
    samples = inspection.examples(4)
    assert len(samples) == 4
    assert {label for sample in samples for label in np.unique(sample.labels).tolist()} == {0, 1, 2, 255}
    sheet = contact_sheet(samples, inspection.classes, inspection.datasets[0].colors)
    page = write_html(inspection, sheet)
    assert "<script>" not in page
    assert "&lt;script&gt;" in page
    assert "Nothing wrong" in page
    assert "data:image/jpeg;base64," in page
    assert "http" not in page
    json.dumps(inspection.to_json())


def test_report_of_what_cannot_be_read(own: Path, write: Write) -> None:
    for path in (*own.glob("images/*"), *own.glob("masks/*")):
        path.write_bytes(b"")
    inspection = inspect(open_splits(str(own)))
    assert len(inspection.serious) == 12
    assert inspection.examples() == []
    assert "12 things wrong" in write_html(inspection, None)
    assert all(entry["frequency"] is None for entry in inspection.to_json()["classes"])


def test_paint_covers_classes_and_hatches_the_rest() -> None:
    image = np.full((16, 16, 3), 100, np.uint8)
    labels = np.zeros((16, 16), np.uint8)
    labels[8:] = 255
    painted = blend_labels(image, labels, [(200, 0, 0)], opacity=0.5)
    assert painted[0, 0].tolist() == [150, 50, 50]
    assert {tuple(pixel) for pixel in painted[10:].reshape(-1, 3).tolist()} == {(100, 100, 100), (255, 255, 255)}


class TestConvert:
    def test_to_a_folder_and_back(self, shared_data: Path, tmp_path: Path) -> None:
        source = open_dataset(f"ade20k:{shared_data}/samples/ade20k?split=val")
        out = convert([source], tmp_path / "out")
        back = open_dataset(f"{out}?split=val")
        assert (back.classes, back.colors, back.names) == (source.classes, source.colors, source.names)
        for ours, theirs in zip(back, source, strict=True):
            np.testing.assert_array_equal(ours.image, theirs.image)
            np.testing.assert_array_equal(ours.labels, theirs.labels)

    def test_it_goes_on(self, own: Path, tmp_path: Path) -> None:
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
