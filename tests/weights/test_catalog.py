"""The catalog of released weights: complete entries, cards with published figures."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

import atrous
from atrous import AtrousError
from atrous.models import MODELS
from atrous.weights.catalog import RELEASES, Release
from atrous.weights.importers import import_file
from tests.weights.importers.test_torchvision import torchvision_state


@pytest.mark.parametrize("release", RELEASES.values(), ids=RELEASES)
def test_entries_are_complete(release: Release) -> None:
    model_id, _, tag = release.name.rpartition(".")
    assert model_id in MODELS.names()
    assert tag
    assert release.url.startswith("https://")
    assert re.fullmatch("([0-9a-f]{8}|[0-9a-f]{64})?", release.sha256)
    assert release.license != "unknown"
    assert all(figure.published and 0 < figure.value < 100 for figure in release.figures)


def test_files_have_distinct_names() -> None:
    assert len({release.file for release in RELEASES.values()}) == len(RELEASES)


def test_the_checksum_in_the_name_of_a_torchvision_file_is_checked(tmp_path: Path) -> None:
    release = RELEASES["fcn.resnet50.coco_with_voc_labels"]
    assert release.sha256 == "1167a1af"
    torch.save(torchvision_state(50, fcn=True), tmp_path / release.file)
    with pytest.raises(AtrousError, match=r"differs from the released file .*expected 1167a1af"):
        atrous.load(tmp_path / release.file)


def test_the_card_of_a_released_file_has_the_published_figures(tmp_path: Path) -> None:
    release = RELEASES["fcn.resnet50.coco_with_voc_labels"]
    torch.save(torchvision_state(50, fcn=True), tmp_path / release.file)
    _, card = import_file(tmp_path / release.file)  # `load` would refuse random weights, by their checksum
    assert [(figure.name, figure.value, figure.published) for figure in card.measured] == [
        ("mIoU", 60.5, True),
        ("pixel accuracy", 91.4, True),
    ]
    assert card.license == "BSD-3-Clause"
    assert card.source.startswith(f"{release.description}: {release.url}; ")  # then what the importer recognized
    assert card.trained_on == "COCO train2017, images with VOC classes"
    own = (tmp_path / release.file).rename(tmp_path / "own.pth")
    assert not import_file(own)[1].measured
