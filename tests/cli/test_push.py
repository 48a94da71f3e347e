"""`atrous push`, and the other commands with what it pushed."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from tests.cli.conftest import Run
from tests.hub_server import TOKEN, Hub


def test_push_then_use(run: Run, hub: Hub, weights_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    result = run("push", weights_file, "me/street", "--private", "--no-image")
    assert result.code == 0
    commit = hub.repositories["me/street"].refs["main"]
    assert f"-> {hub.url}/me/street (private), this version: hf://me/street@{commit}" in result.out
    assert TOKEN not in result.out + result.err
    assert "hf://me/street" in run("weights", "--hub", "me").out
    assert "Apache-2.0" in run("info", "hf://me/street").out
    image = tmp_path / "image.png"
    Image.new("RGB", (90, 70)).save(image)
    predicted = run("predict", image, "-w", "hf://me/street", "-o", tmp_path / "out")
    assert predicted.code == 0, predicted.err
    copied = run("import-weights", "hf://me/street", "-o", tmp_path / "copy.safetensors")
    assert copied.code == 0, copied.err
    exported = run("export", "-w", f"hf://me/street@{commit}", "-o", tmp_path / "street.pt2")
    assert exported.code == 0, exported.err


def test_files_are_written_to_a_folder_without_a_token(run: Run, hub: Hub, weights_file: Path, tmp_path: Path) -> None:
    image = tmp_path / "image.png"
    Image.new("RGB", (90, 70)).save(image)
    command = ("push", weights_file, "me/street", "--out", tmp_path / "files", "--image", image)
    assert run(*command).code == 0
    files = {path.name: path for path in (tmp_path / "files").iterdir()}
    assert set(files) == {"README.md", "example.jpg", "model.safetensors"}
    assert files["model.safetensors"].read_bytes() == weights_file.read_bytes()
    assert "exists" in run(*command).err
    assert run(*command, "--overwrite").code == 0
    assert "exclude each other" in run(*command, "--no-image").err
    assert not hub.requests


def test_the_card_of_the_hub_is_not_overwritten(run: Run, hub: Hub, weights_file: Path) -> None:
    hub.create("me/street", {"model.safetensors": weights_file.read_bytes()})
    result = run("evaluate", "-w", "hf://me/street", "--data", "folder:nowhere", "--write-card")
    assert result.code == 2
    assert "belongs to the package or the cache and is read-only" in result.err
