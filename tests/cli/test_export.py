"""`atrous export` and what it prints."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from atrous import create_model
from atrous.weights import save
from tests.command_line import Run
from tests.inference.networks import letter_card
from tests.offline import skip_without

skip_without("onnxscript")


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved network of few layers."""
    arguments = {"width": 0.1}
    card = letter_card(align_corners=False).model_copy(update={"model": "segnet.basic", "arguments": arguments})
    model = create_model("segnet.basic", num_classes=5, **arguments)
    return save(model, tmp_path_factory.mktemp("weights") / "small.safetensors", card=card)


def test_the_command_prints_what_it_has_verified(run: Run, weights: Path, tmp_path: Path) -> None:
    result = run("export", "-w", weights, "-o", tmp_path / "new" / "small.onnx")
    assert result.code == 0, result.err
    assert "differs from the network by at most" in result.out
    assert "257 x 193, 224 x 320" in result.out.replace("385 x 129, ", "")
    assert os.listdir(tmp_path / "new") == ["small.onnx"]


def test_images_of_a_folder_are_compared(run: Run, weights: Path, tmp_path: Path) -> None:
    images = Path(__file__).parents[2] / "examples" / "street.jpg"
    result = run("export", "-w", weights, "-o", tmp_path / "a.pt2", "--size", "64x96", "--images", images, "--labels")
    assert result.code == 0, result.err
    assert "at 96 x 64 pixels" in result.out


def test_mistakes_are_named(run: Run, weights: Path, tmp_path: Path) -> None:
    assert "--size 5x: expected height and width" in run("export", "-w", weights, "-o", "a.onnx", "--size", "5x").err
    assert "unknown format" in run("export", "-w", weights, "-o", tmp_path / "a.pb").err
    assert os.listdir(tmp_path) == []
