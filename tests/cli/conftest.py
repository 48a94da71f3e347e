"""Weights and photographs for commands."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from atrous import create_model
from atrous.card import Card, Preprocessing
from atrous.data.datasets import voc
from atrous.weights import save
from tests.command_line import Run  # noqa: F401  (the tests of commands import it from here)
from tests.weights.importers.library_networks import CSAILDecoder, CSAILEncoder


@pytest.fixture
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights of a narrow network of the classes of VOC, for inputs of 33 x 33."""
    torch.manual_seed(0)
    model = create_model("deeplab_v3.mobilenet_v2", width=0.125)
    model.card = Card(
        model="deeplab_v3.mobilenet_v2",
        arguments={"width": 0.125},
        classes=voc.CLASSES,
        colors=voc.COLORS,
        preprocessing=Preprocessing(resize="squeeze", size=(33, 33)),
    )
    return save(model, tmp_path_factory.mktemp("weights") / "tiny.safetensors")


@pytest.fixture
def halves(tmp_path: Path) -> tuple[Path, Path]:
    """Random weights of a network of CSAIL of two classes: the files of its encoder and its decoder."""
    paths = tmp_path / "encoder_epoch_20.pth", tmp_path / "decoder_epoch_20.pth"
    networks = CSAILEncoder(50), CSAILDecoder("c1", 2, deepsup=False)
    for network, path in zip(networks, paths, strict=True):
        torch.save(network.state_dict(), path)
    return paths


def change(path: Path) -> None:
    """Scale all floating-point weights of a state dict."""
    state = torch.load(path, weights_only=True)
    torch.save({key: value * 0.9 if value.is_floating_point() else value for key, value in state.items()}, path)


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    """A folder of three images, two of which have the same stem, and a text file."""
    folder = tmp_path / "photographs"
    (folder / "deep").mkdir(parents=True)
    pixels = np.random.default_rng(0).integers(0, 255, (40, 50, 3), np.uint8)
    for name in ("a.jpg", "a.png", "deep/b.jpeg"):
        Image.fromarray(pixels).save(folder / name)
    (folder / "notes.txt").write_text("no image")
    return folder
