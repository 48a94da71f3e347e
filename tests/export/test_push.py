"""Weights pushed to a hub on this machine, and loaded from there."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import numpy as np
import pytest
import torch

import atrous
from atrous import AtrousError, Segmenter
from atrous.export import push_to_hub
from atrous.export.push import example_image
from atrous.imaging.io import read_image
from tests.hub_server import TOKEN, Hub


@pytest.fixture
def hub(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> Hub:
    """The hub, with a token in the environment."""
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    return hub


def test_a_model_is_pushed_and_loaded(hub: Hub, weights_file: Path, tmp_path: Path) -> None:
    model = atrous.load(weights_file)
    report = model.push_to_hub("me/street")
    repository = hub.repositories["me/street"]
    commit = repository.refs["main"]
    assert report.id == f"hf://me/street@{commit}"
    assert report.url == f"{hub.url}/me/street"
    assert not report.private
    files = repository.commits[commit]
    assert set(files) == {"model.safetensors", "README.md", "example.jpg"}
    image = torch.randn(1, 3, 65, 65)
    for source in ("hf://me/street", report.id):
        loaded = atrous.load(source)
        assert torch.equal(loaded(image), model(image))
        assert loaded.card == model.card
    (tmp_path / "example.jpg").write_bytes(files["example.jpg"])
    assert read_image(tmp_path / "example.jpg").shape[1] == read_image(example_image()).shape[1]


def test_a_file_is_pushed_as_it_is(hub: Hub, weights_file: Path, tmp_path: Path) -> None:
    half = atrous.weights.save(atrous.load(weights_file), tmp_path / "half.safetensors", half=True)
    push_to_hub(half, "hf://me/street", image=None)
    files = hub.repositories["me/street"].commits[hub.repositories["me/street"].refs["main"]]
    assert files["model.safetensors"] == half.read_bytes()
    assert set(files) == {"model.safetensors", "README.md"}
    again = push_to_hub("hf://me/street", "me/copy", image=None)
    assert torch.equal(atrous.load(again.id).classifier.weight, atrous.load(half).classifier.weight)


def test_pushed_weights_are_used_everywhere(hub: Hub, weights_file: Path) -> None:
    push_to_hub(weights_file, "me/street", private=True, image=None)
    pixels = np.random.default_rng(0).integers(0, 256, (70, 90, 3), dtype=np.uint8)
    segmenter, local = Segmenter.load("hf://me/street"), Segmenter.load(weights_file)
    assert np.array_equal(segmenter(pixels).labels, local(pixels).labels)
    assert atrous.load("hf://me/street", num_classes=7).num_classes == 7
    assert atrous.weights.read_card("hf://me/street").license == "Apache-2.0"


def test_a_private_repository(hub: Hub, weights_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    report = push_to_hub(weights_file, "me/secret", private=True, image=None)
    assert report.private
    assert hub.repositories["me/secret"].private
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(AtrousError, match="no such repository"):
        atrous.load(report.id.replace("secret@", "secret@").partition("@")[0])


def test_nothing_private_is_pushed_to_a_public_repository(hub: Hub, weights_file: Path) -> None:
    push_to_hub(weights_file, "me/street", image=None)
    before = dict(hub.repositories["me/street"].refs)
    with pytest.raises(AtrousError, match="exists and is public"):
        push_to_hub(weights_file, "me/street", private=True, image=None)
    assert hub.repositories["me/street"].refs == before


def test_a_readme_written_by_hand_is_kept(hub: Hub, weights_file: Path) -> None:
    assert not push_to_hub(weights_file, "me/street", image=None).kept_readme
    repository = hub.repositories["me/street"]
    assert not push_to_hub(weights_file, "me/street", image=None, message="again").kept_readme
    repository.commit({"README.md": b"# My own words"})
    assert push_to_hub(weights_file, "me/street", image=None).kept_readme
    assert repository.commits[repository.refs["main"]]["README.md"] == b"# My own words"


def test_the_token_is_written_nowhere(
    hub: Hub, weights_file: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    push_to_hub(weights_file, "me/street", image=None)
    printed = capfd.readouterr()
    assert TOKEN not in caplog.text + printed.out + printed.err
    for path in tmp_path.rglob("*"):
        assert not path.is_file() or TOKEN.encode() not in path.read_bytes()
    for files in hub.repositories["me/street"].commits.values():
        assert not any(TOKEN.encode() in content for content in files.values())
    assert not hub.asked("GET", "harness|whoami")


@pytest.mark.parametrize(
    ("repo", "token", "message"),
    [
        ("me/street", "", "needs a token with write access: create one on http.*set the environment variable HF_TOKEN"),
        ("me/street", "hf_wrong", r"rejects the token in HF_TOKEN \(401\)"),
        ("others/street", TOKEN, r"does not permit this \(403\)"),
        ("street", TOKEN, "not an id on the hub"),
        ("me/street@v1", TOKEN, "expected user/name"),
        ("me/street/a.safetensors", TOKEN, "expected user/name"),
    ],
)
def test_errors_say_what_to_do(
    repo: str, token: str, message: str, hub: Hub, weights_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(AtrousError, match=message) as raised:
        push_to_hub(weights_file, repo, image=None)
    assert "\n" not in str(raised.value)
    assert not token or token not in str(raised.value)
    assert not hub.repositories


def test_without_a_connection(hub: Hub, weights_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(AtrousError, match=r"cannot reach http://127\.0\.0\.1:9"):
        push_to_hub(weights_file, "me/street", image=None)
    monkeypatch.setenv("ATROUS_OFFLINE", "1")
    with pytest.raises(AtrousError, match="pushed offline"):
        push_to_hub(weights_file, "me/street", image=None)


def test_a_model_without_a_card_is_refused(hub: Hub) -> None:
    with pytest.raises(AtrousError, match="has no card"):
        atrous.create_model("deeplab_v3.mobilenet_v2", width=0.125).push_to_hub("me/street")
    assert not hub.requests


def test_a_model_in_training_stays_as_it_is(hub: Hub, weights_file: Path) -> None:
    model = atrous.load(weights_file).train()
    model.push_to_hub("me/street")
    assert model.training
    assert os.environ["HF_TOKEN"] == TOKEN
