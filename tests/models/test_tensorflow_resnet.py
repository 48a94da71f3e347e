"""DeepLab v3+ on ResNet-50-beta, against logits that TensorFlow's DeepLab computed with made-up weights."""

from __future__ import annotations

import re
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from atrous import create_model

MODEL = "deeplab_v3_plus.resnet50_beta"

PATHS = (
    (r"resnet_v1_50/conv1_1", "backbone.conv1.0"),
    (r"resnet_v1_50/conv1_2", "backbone.conv1.3"),
    (r"resnet_v1_50/conv1_3", "backbone.conv1.6"),
    (r"resnet_v1_50/block(\d)/unit_(\d)/bottleneck_v1/shortcut", "backbone.layer{0}.{1}.downsample.0"),
    (r"resnet_v1_50/block(\d)/unit_(\d)/bottleneck_v1/conv(\d)", "backbone.layer{0}.{1}.conv{2}"),
    (r"image_pooling", "aspp.pooling.conv.0"),
    (r"aspp0", "aspp.branches.0.0"),
    (r"aspp(\d)_depthwise", "aspp.branches.{0}.0.0"),
    (r"aspp(\d)_pointwise", "aspp.branches.{0}.1.0"),
    (r"concat_projection", "aspp.project.0"),
    (r"decoder/feature_projection0", "decoder.reduce.0"),
    (r"decoder/decoder_conv(\d)_depthwise", "decoder.refine.{0}.0.0"),
    (r"decoder/decoder_conv(\d)_pointwise", "decoder.refine.{0}.1.0"),
    (r"logits/semantic", "classifier"),
)
"""Paths of TensorFlow's convolutions and ours; units count from 1 there."""

LEAVES = {"gamma": "weight", "beta": "bias", "moving_mean": "running_mean", "moving_variance": "running_var"}


def convolution(scope: str) -> str:
    """Find our path of a convolution of TensorFlow's."""
    for pattern, path in PATHS:
        if match := re.fullmatch(pattern, scope):
            numbers = list(match.groups())
            if "unit_" in scope:
                numbers[1] = str(int(numbers[1]) - 1)
            return path.format(*numbers)
    raise AssertionError(scope)


def normalization(path: str) -> str:
    """Find the path of the batch normalization after a convolution."""
    if path == "backbone.conv1.6":
        return "backbone.bn1"
    if re.search(r"\.conv\d$", path) and ".layer" in path:
        return re.sub(r"conv(\d)$", r"bn\1", path)
    parent, _, index = path.rpartition(".")
    return f"{parent}.{int(index) + 1}"


def value(name: str, shape: tuple[int, ...], gain: float) -> np.ndarray:
    """Compute the made-up values of a variable from its name, as `make_checkpoint.py` beside the reference does."""
    random = np.random.RandomState(zlib.crc32(name.encode()))
    leaf = name.rsplit("/", 1)[-1]
    if leaf in ("beta", "moving_mean", "biases"):
        return random.normal(0, 0.1, shape).astype("f")
    if leaf in ("gamma", "moving_variance"):
        return random.uniform(0.5, 1.5, shape).astype("f")
    fan = int(np.prod(shape[:-1])) if leaf == "weights" else shape[0] * shape[1]
    return (random.normal(0, 1, shape) * (gain / fan) ** 0.5).astype("f")


def state_dict(names: list[str], shapes: list[str], gain: float) -> dict[str, Tensor]:
    """Translate the variables of the checkpoint to our keys."""
    state = {}
    for name, shape in zip(names, shapes, strict=True):
        tensor = torch.from_numpy(value(name, tuple(map(int, shape.split(","))), gain))
        scope, _, leaf = name.rpartition("/")
        path = convolution(scope.removesuffix("/BatchNorm"))
        if leaf in LEAVES:
            state[f"{normalization(path)}.{LEAVES[leaf]}"] = tensor
        elif leaf == "biases":
            state[f"{path}.bias"] = tensor
        else:
            state[f"{path}.weight"] = tensor.permute(2, 3, 0, 1) if "depthwise" in leaf else tensor.permute(3, 2, 0, 1)
    projection = state["aspp.project.0.weight"]  # TensorFlow concatenates the image pooling first
    state["aspp.project.0.weight"] = torch.cat([projection[:, 256:], projection[:, :256]], 1)
    return state


@torch.no_grad()
def test_logits_equal_tensorflows_with_its_low_level_map(shared_data: Path) -> None:
    """The decoder takes `block1/unit_2/conv3` before the sum; with the unit's output the logits differ by a tenth."""
    stored = np.load(shared_data / "tensorflow" / "resnet_v1_50_beta_os16.npz")
    state = state_dict(list(stored["names"]), list(stored["shapes"]), float(stored["gain"]))
    image = torch.from_numpy(stored["image"]).permute(0, 3, 1, 2) / 127.5 - 1
    expected = torch.from_numpy(stored["logits"]).permute(0, 3, 1, 2)
    errors = {}
    for maps_from in ("conv3", "output"):
        options = {"separable": True, "align_corners": True, "multi_grid": (1, 1, 1)}
        model = create_model(MODEL, **options, backbone_options={"maps_from": maps_from}).eval()
        result = model.load_state_dict(state, strict=False)
        assert not result.unexpected_keys
        assert all(key.endswith("num_batches_tracked") for key in result.missing_keys)
        errors[maps_from] = float((model.scores(image) - expected).abs().max() / expected.abs().max())
    assert errors["conv3"] <= 1e-5
    assert errors["output"] > 0.05
    assert create_model(MODEL, width=0.125).backbone.maps_from == "conv3"
