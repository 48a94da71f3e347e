"""MobileNetV2ForSemanticSegmentation of transformers and ours compute the same from the same state dict."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import atrous
from tests.offline import skip_without
from tests.parity.networks import check, load
from tests.weights.importers.library_networks import randomize

skip_without("transformers")

from transformers import MobileNetV2Config, MobileNetV2ForSemanticSegmentation  # noqa: E402


@torch.no_grad()
@pytest.mark.parametrize("size", [(65, 97), (64, 96)])
@pytest.mark.parametrize("width", [1.0, 0.5, 1.4])
@pytest.mark.parametrize("stride", [8, 16])
def test_scores(
    stride: int, width: float, size: tuple[int, int], tmp_path: Path, record_property: pytest.RecordProperty
) -> None:
    config = MobileNetV2Config(output_stride=stride, depth_multiplier=width, num_labels=21)
    theirs = randomize(MobileNetV2ForSemanticSegmentation(config))
    model = load(theirs, tmp_path / "pytorch_model.bin")
    assert model.output_stride == 16
    assert model.card is not None
    assert model.card.arguments["width"] == width
    model.set_output_stride(stride)
    image = torch.randn(1, 3, *size)
    check(model.scores(image), theirs(image).logits, record_property)


def test_save_pretrained(tmp_path: Path) -> None:
    """The folder that transformers writes holds the network as safetensors."""
    network = MobileNetV2ForSemanticSegmentation(MobileNetV2Config(num_labels=3))
    network.save_pretrained(tmp_path)
    assert atrous.load(tmp_path / "model.safetensors").num_classes == 3
