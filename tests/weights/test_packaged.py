"""The packaged weights: small files with complete cards and correct predictions, without a network connection."""

from __future__ import annotations

from pathlib import Path

import pytest
from safetensors import safe_open

from atrous import Segmenter, list_weights
from atrous.cli.predict import DEFAULT_WEIGHTS
from atrous.data import open_dataset
from atrous.data.datasets.camvid import CLASSES
from atrous.evaluation import ConfusionMatrix
from atrous.weights.find import PACKAGED, SUFFIX
from atrous.weights.header import read_card

FILES = sorted(PACKAGED.glob(f"*{SUFFIX}"))
STREET = Path(__file__).resolve().parents[2] / "examples" / "street.jpg"


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATROUS_OFFLINE", "1")


def test_the_default_is_packaged() -> None:
    assert DEFAULT_WEIGHTS + SUFFIX in [path.name for path in FILES]
    assert DEFAULT_WEIGHTS in list_weights()


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_files_are_small_and_their_cards_complete(path: Path) -> None:
    assert path.stat().st_size <= 12_000_000
    with safe_open(path, "pt") as file:
        kinds = {file.get_slice(key).get_dtype() for key in file.keys()}  # noqa: SIM118 (not a dict)
    assert kinds <= {"F16", "I64"}
    card = read_card(path.name.removesuffix(SUFFIX))
    assert path.name.startswith(card.model)
    assert card.license != "unknown"
    assert "ImageNet" in card.source
    assert "camvid train+val, 468 images" in card.trained_on
    miou = next(figure for figure in card.measured if figure.name == "mIoU")
    assert miou.value >= 65
    assert "val" in miou.data
    assert miou.command.startswith("atrous evaluate")
    assert not miou.published


def test_classes_of_a_street() -> None:
    labels = Segmenter.load(DEFAULT_WEIGHTS)(STREET).labels
    height, width = labels.shape
    assert CLASSES[labels[height - 5, width // 2]] == "road"
    assert CLASSES[labels[5, width // 2]] == "sky"
    shares = ConfusionMatrix(len(CLASSES))
    shares.update(labels, labels)
    found = {name for name, pixels in zip(CLASSES, shares.counts.sum(1), strict=True) if pixels > 0.002 * labels.size}
    assert {"sky", "building", "road", "pavement", "tree", "car"} <= found


def test_miou_on_validation_frames(shared_data: Path) -> None:
    """Every tenth of val, on which it was trained: a wrong preprocessing or class would show."""
    val = open_dataset(f"camvid:{shared_data / 'camvid'}?split=val")
    segmenter = Segmenter.load(DEFAULT_WEIGHTS)
    matrix = ConfusionMatrix(len(CLASSES), ignore_index=val.ignore_index)
    for index in range(0, len(val), 10):
        sample = val[index]
        matrix.update(sample.labels, segmenter(sample.image).labels)
    assert matrix.miou > 0.75
    assert matrix.pixel_accuracy > 0.94
