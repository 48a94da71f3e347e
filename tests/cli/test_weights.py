from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.conftest import Run
from tests.hub_server import TOKEN, Hub


def test_weights_lists_ids_by_pattern(run: Run) -> None:
    assert "deeplab_v3.mobilenet_v2_x0.5.voc" in run("weights", "voc").out
    assert run("weights", "nothing").code == 2


def test_weights_lists_damaged_files(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATROUS_WEIGHTS", str(tmp_path))
    (tmp_path / "deeplabv3_resnet50_coco-cd0a2569.pth").write_bytes(b"x")
    result = run("weights", "resnet50.coco")
    assert result.code == 0, result.err
    assert "deeplab_v3.resnet50.coco_with_voc_labels" in result.out


def test_weights_lists_repositories_of_the_hub(run: Run, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    readme = b"---\nlicense: mit\ntags:\n- atrous\n---\n"
    hub.create("me/street", {"README.md": readme})
    hub.create("me/secret", {"README.md": readme}, private=True)
    out = run("weights", "--hub", "me").out
    assert "hf://me/street" in out
    assert "mit" in out
    assert "secret" not in out
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert "private" in run("weights", "secret", "--hub", "me").out
    assert "No repositories of you on" in run("weights", "--hub", "you").err
    assert "No repositories of me on" in run("weights", "nothing", "--hub", "me").err


def test_download_takes_one_id(run: Run) -> None:
    assert "Did you mean" in run("weights", "deeplab_v3.mobilenet_v2.vok", "--download").err
    assert "Name the weights" in run("weights", "--download").err
    assert "--hub" in run("weights", "voc", "--download", "--hub", "me").err
