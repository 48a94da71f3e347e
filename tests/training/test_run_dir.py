"""Checkpoints on a full disk, and damaged ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from atrous import AtrousError
from tests.full_disk import file_size_limit
from tests.training.conftest import small

pytest.importorskip("lightning_fabric", reason="needs the extra 'train'")

from atrous.training import train
from atrous.training.run_dir import CHECKPOINT

pytestmark = pytest.mark.usefixtures("_one_thread")


def test_a_full_disk(street: str, tmp_path: Path) -> None:
    """No file may grow beyond some size, which is how a full disk looks to those who write."""
    with (
        file_size_limit(60_000),
        pytest.raises(AtrousError, match=r"Cannot write .*checkpoint.pt: .* Free disk space"),
    ):
        train(small(street), tmp_path / "run")
    assert not (tmp_path / "run" / CHECKPOINT).exists()
    assert not list((tmp_path / "run").glob(".checkpoint*"))


def test_a_damaged_checkpoint(street: str, tmp_path: Path) -> None:
    recipe = small(street, "steps=1", "evaluate.max_images=1")
    train(recipe, tmp_path / "run")
    path = tmp_path / "run" / CHECKPOINT
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(
        AtrousError, match=r"the checkpoint is damaged .* another --out, .* weights=.*best\.safetensors\."
    ):
        train(recipe, tmp_path / "run", resume=True)


def with_longer_moments(state: dict[str, Any]) -> dict[str, Any]:
    entries = {
        name: {key: value[..., None] if torch.is_tensor(value) else value for key, value in entry.items()}
        for name, entry in state["state"].items()
    }
    return {**state, "state": entries}


@pytest.mark.parametrize(
    "change",
    [
        lambda state: [],
        lambda state: {key: value for key, value in state.items() if key != "step"},
        lambda state: {**state, "step": "many"},
        lambda state: {**state, "step": -1},
        lambda state: {**state, "step": 2**40},
        lambda state: {**state, "step": float("inf")},
        lambda state: {**state, "optimizer": {}},
        lambda state: {**state, "optimizer": with_longer_moments(state["optimizer"])},
        lambda state: {**state, "model": {name: value[..., None] for name, value in state["model"].items()}},
        lambda state: {**state, "model": None},
        lambda state: {**state, "stage": 7},
    ],
)
def test_a_checkpoint_of_other_content(street: str, tmp_path: Path, change) -> None:
    recipe = small(street, "steps=1", "evaluate.max_images=1")
    train(recipe, tmp_path / "run")
    path = tmp_path / "run" / CHECKPOINT
    torch.save(change(torch.load(path, weights_only=True)), path)
    with pytest.raises(AtrousError, match=r"the checkpoint is damaged"):
        train(recipe, tmp_path / "run", resume=True)


def test_a_folder_without_a_run_is_not_resumed(street: str, tmp_path: Path) -> None:
    with pytest.raises(AtrousError, match=r"no run to resume: recipe\.yaml is missing; leave out --resume"):
        train(small(street), tmp_path / "empty", resume=True)
