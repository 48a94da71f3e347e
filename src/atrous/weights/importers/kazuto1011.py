"""Import state dicts of kazuto1011's deeplab-pytorch: DeepLab v2 on ResNet-101, with multi-scale inputs or without.

The network is Caffe's, with its images (BGR, the mean subtracted). What differs from ours: all its resizes have
`align_corners=False`, those of the scaled images included, where Caffe and we align the corners; the released weights
of DeepLab v2 were converted from Caffe, or trained with that. At a single scale, and images of 8 k + 1 pixels per side,
the scores are the same.

Source: deeplab-pytorch, libs/models/resnet.py, deeplabv2.py and msc.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from atrous.backbones.resnet import BLOCKS
from atrous.card import Card
from atrous.errors import AtrousError
from atrous.models import SegmentationModel
from atrous.weights.importers.networks import CAFFE, Network, build_network, count_units
from atrous.weights.tensors import rename_keys

MULTI_SCALE = ("base.", "scale.")
"""The prefix of all keys in a network on several scales: today, and in old versions."""

UNITS = {"reduce": "1", "conv3x3": "2", "increase": "3"}

TABLE = (
    (r"(?:base\.|scale\.)?layer1\.conv1\.conv\.", "backbone.conv1."),
    (r"(?:base\.|scale\.)?layer1\.conv1\.bn\.", "backbone.bn1."),
    (r"(?:base\.|scale\.)?aspp\.(?:stages\.)?c(\d)\.", r"aspp.branches.\1."),
)


def recognizes(state: Mapping[str, Tensor]) -> bool:
    """Tell whether a state dict has the keys of kazuto1011's DeepLab v2."""
    return any(f"{prefix}layer1.conv1.conv.weight" in state for prefix in ("", *MULTI_SCALE)) and any(
        ".conv3x3.conv." in key for key in state
    )


def build(state: Mapping[str, Tensor], path: Path) -> tuple[SegmentationModel, Card]:
    """Build the network of a state dict.

    Raises: `AtrousError` for a ResNet other than ResNet-101, and for keys or shapes that differ.
    """
    prefix = next((prefix for prefix in MULTI_SCALE if f"{prefix}layer1.conv1.conv.weight" in state), "")
    units = tuple(count_units(state, f"{prefix}layer{stage}.") for stage in (2, 3, 4, 5))
    if units != BLOCKS[101]:
        raise AtrousError(
            f"{path}: the stages have {', '.join(map(str, units))} units; expected those of ResNet-101, "
            f"{', '.join(map(str, BLOCKS[101]))}."
        )
    if not any(key.startswith((f"{prefix}aspp.c", f"{prefix}aspp.stages.c")) for key in state):
        raise AtrousError(
            f"{path}: this network of deeplab-pytorch has no ASPP of DeepLab v2, with keys such as 'aspp.c0.weight'; "
            "expected DeepLab v2 on ResNet-101."
        )
    table = [*TABLE]
    for stage in (2, 3, 4, 5):
        for unit in range(1, units[stage - 2] + 1):
            theirs, ours = rf"(?:base\.|scale\.)?layer{stage}\.block{unit}", f"backbone.layer{stage - 1}.{unit - 1}"
            for name, number in UNITS.items():
                table += [(rf"{theirs}\.{name}\.conv\.", f"{ours}.conv{number}.")]
                table += [(rf"{theirs}\.{name}\.bn\.", f"{ours}.bn{number}.")]
            table += [(rf"{theirs}\.(?:shortcut|proj)\.conv\.", f"{ours}.downsample.0.")]
            table += [(rf"{theirs}\.(?:shortcut|proj)\.bn\.", f"{ours}.downsample.1.")]
    model = "deeplab_v2_msc.resnet101" if prefix else "deeplab_v2.resnet101"
    network = Network(model, {"output_stride": 8}, "kazuto1011/deeplab-pytorch", preprocessing=CAFFE)
    return build_network(network, rename_keys(state, table), path)
