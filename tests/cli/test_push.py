"""`atrous push`, and the other commands with what it pushed."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from atrous.card import Card
from atrous.models import build_from_card
from atrous.weights import read_card, save
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


def test_training_and_evaluation_take_them(run: Run, hub: Hub, hub_card: Card, own: Path, tmp_path: Path) -> None:
    card = hub_card.model_copy(update={"classes": ("background", "road", "tree")})
    content = save(build_from_card(card), tmp_path / "weights.safetensors").read_bytes()
    hub.create("me/street", {"model.safetensors": content})
    words = ("weights=hf://me/street", "model.options.width=0.125", "steps=1", "batch=2")
    command = ("train", "--model", card.model, "--data", own, *words, "-o", tmp_path / "run")
    planned = run(*command, "--dry-run")
    assert f"to be downloaded from {hub.url}/me/street" in planned.out
    assert not hub.requests
    trained = run(*command)
    assert trained.code == 0, trained.err
    assert "tensors from hf://me/street" in trained.out
    options = ("-w", "hf://me/street", "--data", f"{own}?split=val", "-o", tmp_path / "out", "--engine", "torch")
    evaluated = run("evaluate", *options, "--write-card")
    assert evaluated.code == 0, evaluated.err
    assert "mIoU" in [each.name for each in read_card(tmp_path / "out" / "model.safetensors").measured[2:]]
    assert len(hub.downloads) == 1


def test_the_card_of_the_hub_is_not_overwritten(run: Run, hub: Hub, weights_file: Path) -> None:
    hub.create("me/street", {"model.safetensors": weights_file.read_bytes()})
    result = run("evaluate", "-w", "hf://me/street", "--data", "folder:nowhere", "--write-card")
    assert result.code == 2
    assert "belongs to the package or the cache and is read-only" in result.err
