"""Inspection reports every planted error and nothing else."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from atrous.data import open_dataset
from atrous.data.inspect import ClassStatistics, inspect_splits, open_splits
from atrous.data.report import write_html
from tests.data_fixtures import Write, photograph

CAMVID_WEIGHTS = [0.2793, 0.2017, 4.7865, 0.1490, 1.0000, 0.4217, 3.8467, 1.9736, 0.7889, 6.3747, 8.8587]


def test_median_frequency_weights_of_camvid(shared_data: Path) -> None:
    inspection = inspect_splits([open_dataset(f"camvid:{shared_data}/camvid?split=train")])
    assert len(inspection.reports) == 367
    np.testing.assert_allclose(inspection.statistics().median_frequency_weights(), CAMVID_WEIGHTS, atol=1e-3)
    assert not inspection.problems
    assert inspection.sizes() == {(480, 360): 367}
    assert inspection.mask_formats() == {"PNG gray": 367}


def test_a_data_set_without_problems(own: Path) -> None:
    inspection = inspect_splits(open_splits(str(own)))
    assert inspection.problems == ()
    assert [dataset.split for dataset in inspection.datasets] == ["train", "val"]
    total = inspection.statistics()
    assert total.pixels.tolist() == [2 * 16 * 32, 6 * 4 * 32 + 2 * 16 * 32, 2 * 16 * 32]
    assert total.images.tolist() == [2, 6, 2]
    assert total.ignored_pixels == 6 * 4 * 32


def test_frequencies_by_their_definition(own: Path) -> None:
    dataset = open_dataset(own)
    maps = [dataset.labels(index) for index in range(len(dataset))]
    expected = []
    for label in range(3):
        holding = [each for each in maps if (each == label).any()]
        expected.append(sum((each == label).sum() for each in holding) / sum(each.size for each in holding))
    totals = inspect_splits([dataset]).statistics()
    np.testing.assert_allclose(totals.frequencies(), expected)
    np.testing.assert_allclose(totals.median_frequency_weights(), np.median(expected) / expected)


def test_weights_of_no_images_are_nan() -> None:
    assert np.isnan(ClassStatistics.from_reports([], 3).median_frequency_weights()).all()


@pytest.fixture
def planted_errors(own: Path, write: Write) -> dict[str, str]:
    """Break a valid folder in ten ways; map each file to a part of the expected message."""
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
        "4.jpg": "is the same image as",
        "8.png": "this mask is in color",
        "9.png": "not an image",
        "train.txt": "'77' is listed",
    }


def test_ten_planted_errors_are_reported(own: Path, planted_errors: dict[str, str]) -> None:
    inspection = inspect_splits(open_splits(str(own)))
    messages = [problem.message for problem in inspection.errors]
    for file, part in planted_errors.items():
        assert any(file in message and part in message for message in messages), (file, part)
    assert len(messages) == 11  # '0' is listed too, and has lost its mask
    assert sum("'0' is listed" in message for message in messages) == 1


def test_warnings(own: Path, write: Write) -> None:
    for number in range(6):
        write(own / f"masks/{number}.png", np.full((24, 32), 255 if number == 3 else 0, np.uint8))
    Image.fromarray(np.zeros((24, 32), np.uint8)).convert("P").save(own / "masks/0.png")
    write(own / "images/1.png", photograph(2))
    (own / "images/1.jpg").unlink()
    Image.fromarray(photograph(2)).save(own / "images/2.png")
    (own / "images/2.jpg").unlink()
    inspection = inspect_splits(open_splits(str(own)))
    assert not inspection.errors
    warnings = {problem.kind: problem.message for problem in inspection.warnings}
    assert warnings.keys() == {"all ignored", "absent class", "storage", "duplicate"}
    assert "road, tree" in warnings["absent class"]
    assert "stored as 0 and 255?" in warnings["absent class"]
    assert "stored as PNG palette, most masks as PNG gray" in warnings["storage"]


def test_masks_that_count_from_one_are_reported_once(own: Path, write: Write) -> None:
    for number in range(6):
        write(own / f"masks/{number}.png", np.full((24, 32), 1 + number % 3, np.uint8))
    inspection = inspect_splits(open_splits(str(own)))
    (problem,) = inspection.errors
    assert problem.kind == "mask"
    assert problem.message.startswith("2 masks hold values without a class: 3 (2 masks); the first is ")
    assert "masks/2.png: value 3 (768 px). Expected 0 " in problem.message
    assert "if the masks count from 1, give each class its value, `values: [1]`" in problem.message
    assert [Path(file).name for file in problem.files] == ["2.png", "5.png"]
    assert "<details><summary>2 masks</summary>" in write_html(inspection, None)
    write(own / "masks/0.png", np.zeros((24, 32), np.uint8))
    write(own / "masks/1.png", np.full((24, 32), 77, np.uint8))
    (problem,) = inspect_splits(open_splits(str(own))).errors
    assert "3 masks hold values without a class: 3 (2 masks), 77 (1 mask)" in problem.message
    assert "count from 1" not in problem.message


def test_repeated_items_are_not_duplicates(own: Path) -> None:
    assert not inspect_splits([open_dataset(own).select([0, 0, 1, 2])]).problems


def test_a_split_without_labels_is_an_error(own: Path, write: Write) -> None:
    for name in ("4", "5"):
        write(own / f"masks/{name}.png", np.full((24, 32), 255, np.uint8))
    inspection = inspect_splits(open_splits(str(own)))
    (problem,) = inspection.errors
    assert problem.kind == "no labels"
    assert "all pixels of the 2 masks of 'val' are ignored" in problem.message
    for path in (own / "masks").glob("*.png"):
        write(path, np.full((24, 32), 255, np.uint8))
    assert len(inspect_splits(open_splits(str(own))).errors) == 2
