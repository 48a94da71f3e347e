"""Import state dicts of Hugging Face's transformers: MobileNetV2ForSemanticSegmentation.

It is TensorFlow's DeepLab v3 on MobileNetV2, converted: "same" padding of TensorFlow, an epsilon of 1e-3 in the
backbone and 1e-5 in the head, and image pooling concatenated before the 1x1 branch. The file does not tell the output
stride: it is 16, that of the released networks, unless another is given. The 1x1 convolution to 1280 channels belongs
to the classifier and is left out.

Source: transformers/models/mobilenet_v2/modeling_mobilenet_v2.py; the preprocessing of
`google/deeplabv3_mobilenet_v2_1.0_513`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from atrous.backbones.mobilenet_v2 import BOTTLENECKS
from atrous.card import Card, Preprocessing
from atrous.errors import AtrousError
from atrous.layers.conv import make_divisible
from atrous.models import SegmentationModel
from atrous.weights.importers.networks import Network, build_network, channels_of, first_inputs_last
from atrous.weights.tensors import rename_keys

HEAD = (
    (r"segmentation_head\.conv_pool\.", "aspp.pooling.conv."),
    (r"segmentation_head\.conv_aspp\.", "aspp.branches.0."),
    (r"segmentation_head\.conv_projection\.", "aspp.project."),
    (r"segmentation_head\.classifier\.0\.", "classifier."),
)
"""Keys of the head, after `LAYER`."""

LAYER = (
    (r"(.*)\.convolution\.", r"\1.0."),
    (r"(.*)\.normalization\.", r"\1.1."),
)
"""Convolution and batch normalization of every layer."""

BLOCK = {"expand_1x1.0": "0.0", "expand_1x1.1": "0.1", "conv_3x3.0": "1.0", "conv_3x3.1": "1.1"}
PROJECT = {"reduce_1x1.0": "2", "reduce_1x1.1": "3"}
"""Layers of an inverted residual and their places in ours; those of the stem lack the expansion."""

BACKBONE = (
    (r"mobilenet_v2\.conv_stem\.first_conv\.", "backbone.features.0."),
    (r"mobilenet_v2\.conv_stem\.conv_3x3\.", "backbone.features.1.conv.0."),
    (r"mobilenet_v2\.conv_stem\.reduce_1x1\.0\.", "backbone.features.1.conv.1."),
    (r"mobilenet_v2\.conv_stem\.reduce_1x1\.1\.", "backbone.features.1.conv.2."),
    *(
        (rf"mobilenet_v2\.layer\.{index}\.{re.escape(theirs)}\.", f"backbone.features.{index + 2}.conv.{ours}.")
        for index in range(16)
        for theirs, ours in (BLOCK | PROJECT).items()
    ),
)
"""Keys of the backbone, after `LAYER`; the stem is the first two of our blocks."""

UNUSED = "mobilenet_v2.conv_1x1."
WIDTHS = (1.0, 0.75, 0.5, 0.35, 1.3, 1.4)
"""The released width multipliers."""
PREPROCESSING = Preprocessing(
    resize="shorter_side", size=(513, 513), mean=(127.5, 127.5, 127.5), std=(127.5, 127.5, 127.5)
)


def recognizes(state: Mapping[str, Tensor]) -> bool:
    """Tell whether a state dict has the keys of MobileNetV2ForSemanticSegmentation."""
    return any(key.startswith("segmentation_head.") for key in state) and any(
        key.startswith("mobilenet_v2.conv_stem.") for key in state
    )


def build(state: Mapping[str, Tensor], path: Path) -> tuple[SegmentationModel, Card]:
    """Build the network of a state dict.

    Raises: `AtrousError` for widths that no multiplier gives, and for keys or shapes that differ.
    """
    used = {key: value for key, value in state.items() if not key.startswith(UNUSED)}
    tensors = rename_keys(rename_keys(used, LAYER), (*BACKBONE, *HEAD))
    channels = channels_of(tensors, "aspp.branches.0.0.weight", path)
    first_inputs_last(tensors, "aspp.project.0.weight", channels)
    arguments = {
        "width": _find_width(tensors, path),
        "output_stride": 16,
        "channels": channels,
        "dropout": 0.8,
        "backbone_options": {"padding": "tensorflow"},
    }
    network = Network("deeplab_v3.mobilenet_v2", arguments, "transformers", preprocessing=PREPROCESSING)
    return build_network(network, tensors, path)


def _find_width(tensors: Mapping[str, Tensor], path: Path) -> float:
    """Find the multiplier that gives the numbers of channels of all blocks."""
    index, channels, bases = 1, [], []
    for _, base, repeats, _ in BOTTLENECKS:
        for _ in range(repeats):
            key = f"backbone.features.{index}.conv.{1 if index == 1 else 2}.weight"
            channels.append(channels_of(tensors, key, path))
            bases.append(base)
            index += 1
    for width in (*WIDTHS, channels[-1] / bases[-1]):
        if [make_divisible(base * width) for base in bases] == channels:
            return width
    raise AtrousError(
        f"{path}: no width multiplier of MobileNetV2 gives blocks of {', '.join(map(str, channels))} channels."
    )
