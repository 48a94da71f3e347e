"""Weights found by id or path, without downloading where downloads are disabled."""

from __future__ import annotations

from pathlib import Path

import pytest

from atrous import AtrousError
from atrous.weights import find_weights
from atrous.weights.find import DownloadNeededError, cache_folder, describe_weights, downloads_disabled

RELEASED = "deeplab_v3.resnet50.coco_with_voc_labels"


def test_disabled_downloads_are_errors_with_their_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("atrous.weights.download.download", lambda *_, **__: pytest.fail("downloads are disabled"))
    with downloads_disabled(), pytest.raises(DownloadNeededError) as raised:
        find_weights(RELEASED)
    assert raised.value.url.endswith("deeplabv3_resnet50_coco-cd0a2569.pth")


def test_downloads_are_enabled_again_after_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    file = cache_folder() / "downloaded.pth"
    monkeypatch.setattr("atrous.weights.download.download", lambda *_, **__: file)
    with pytest.raises(ZeroDivisionError), downloads_disabled():
        raise ZeroDivisionError
    assert find_weights(RELEASED) == file


def test_a_damaged_file_is_located_but_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATROUS_WEIGHTS", str(tmp_path))
    file = tmp_path / "deeplabv3_resnet50_coco-cd0a2569.pth"
    file.write_bytes(b"x")
    assert describe_weights(RELEASED).path == file
    for source in (RELEASED, file):
        with pytest.raises(AtrousError, match="the content differs from the released file"):
            find_weights(source)
