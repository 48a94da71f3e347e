"""Import state dicts of VainF's DeepLabV3Plus-Pytorch: DeepLabV3 and DeepLabV3+ on ResNet-50, -101 and MobileNetV2.

The ResNets and their dilation are torchvision's, and so is the head of DeepLabV3. What differs from ours:

- The decoder of DeepLabV3+ has one convolution, and concatenates the low-level features before those of ASPP.
- MobileNetV2 pads the input of each inverted residual instead of its depthwise convolution's: what its expansion makes
  of the zeros is not zero, because batch normalization shifts it. It does not pad the image. Networks are built to
  compute that
  (`backbone_options={"padding": "before_expansion"}`); with "symmetric" the same weights load into the network of the
  paper, which differs at the borders. The epsilon is 1e-5.
- Separable convolutions (`--separable_conv`) have neither batch normalization nor ReLU between their halves.

The output stride leaves no trace in the file; it is 16, the default of its training, unless another is given.

Source: DeepLabV3Plus-Pytorch, network/_deeplab.py, network/modeling.py and network/backbone.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from atrous.card import Card
from atrous.errors import AtrousError
from atrous.models import SegmentationModel
from atrous.weights.importers.networks import Network, build_network, find_resnet, first_inputs_last
from atrous.weights.tensors import rename_keys

BACKBONE = ((r"backbone\.(?:low|high)_level_features\.", "backbone.features."),)
"""MobileNetV2 is stored in two parts, whose blocks are counted through; the keys of ResNets are ours."""

ASPP = (
    (r"{aspp}convs\.([123])\.0\.body\.([01])\.", r"aspp.branches.\1.\2.0."),
    (r"{aspp}convs\.([0123])\.", r"aspp.branches.\1."),
    (r"{aspp}convs\.4\.1\.", "aspp.pooling.conv.0."),
    (r"{aspp}convs\.4\.2\.", "aspp.pooling.conv.1."),
    (r"{aspp}project\.", "aspp.project."),
)
SEPARABLE_ASPP = (r"{aspp}convs\.([123])\.1\.", r"aspp.branches.\1.1.1.")
"""Keys of ASPP; its place differs between the two networks."""

DEEPLAB_V3 = (
    (r"classifier\.classifier\.1\.body\.([01])\.", r"refine.\1.0."),
    (r"classifier\.classifier\.1\.", "refine.0."),
    (r"classifier\.classifier\.2\.", "refine.1."),
    (r"classifier\.classifier\.4\.", "classifier."),
)
DEEPLAB_V3_PLUS = (
    (r"classifier\.project\.", "decoder.reduce."),
    (r"classifier\.classifier\.0\.body\.([01])\.", r"decoder.refine.0.\1.0."),
    (r"classifier\.classifier\.([01])\.", r"decoder.refine.0.\1."),
    (r"classifier\.classifier\.3\.", "classifier."),
)
SEPARABLE_V3 = ((r"classifier\.classifier\.2\.", "refine.1.1."),)
SEPARABLE_V3_PLUS = ((r"classifier\.classifier\.1\.", "decoder.refine.0.1.1."),)
"""Keys of the batch normalization after separable convolutions."""


def recognizes(state: Mapping[str, Tensor]) -> bool:
    """Tell whether a state dict has the keys of VainF's networks."""
    heads = ("classifier.classifier.0.convs.", "classifier.aspp.convs.")
    return any(key.startswith(heads) for key in state) and any(key.startswith("backbone.") for key in state)


def build(state: Mapping[str, Tensor], path: Path) -> tuple[SegmentationModel, Card]:
    """Build the network of a state dict.

    Raises: `AtrousError` for another backbone, and for keys or shapes that differ.
    """
    backbone = _find_backbone(state, path)
    plus = "classifier.aspp.convs.0.0.weight" in state
    aspp = "classifier.aspp." if plus else "classifier.classifier.0."
    separable = f"{aspp}convs.1.0.body.0.weight" in state
    arguments: dict[str, Any] = {
        "output_stride": 16,
        "atrous_rates": (6, 12, 18),
        "separable": separable,
        "depthwise_norm": False,
    }
    if backbone == "mobilenet_v2":
        arguments["backbone_options"] = {"padding": "before_expansion", "norm_eps": 1e-5}
    else:
        arguments["multi_grid"] = (1, 1, 1)
    if plus:
        arguments["decoder_convs"] = 1
    else:
        arguments["refine"] = "separable" if separable else True
    table = [*(DEEPLAB_V3_PLUS if plus else DEEPLAB_V3)]
    rules = [*ASPP]
    if separable:
        table = [*(SEPARABLE_V3_PLUS if plus else SEPARABLE_V3), *table]
        rules.insert(1, SEPARABLE_ASPP)
    located = [(pattern.replace("{aspp}", aspp.replace(".", r"\.")), ours) for pattern, ours in rules]
    tensors = rename_keys(state, (*located, *table, *BACKBONE))
    if plus:
        depthwise = "decoder.refine.0.0.0.weight"
        if separable and depthwise in tensors:
            tensors[depthwise] = tensors[depthwise].roll(-LOW_LEVEL_CHANNELS, dims=0)
        first = "decoder.refine.0.1.0.weight" if separable else "decoder.refine.0.0.weight"
        first_inputs_last(tensors, first, LOW_LEVEL_CHANNELS)
    name = f"deeplab_v3_plus.{backbone}" if plus else f"deeplab_v3.{backbone}"
    return build_network(Network(name, arguments, "VainF/DeepLabV3Plus-Pytorch"), tensors, path)


LOW_LEVEL_CHANNELS = 48


def _find_backbone(state: Mapping[str, Tensor], path: Path) -> str:
    if "backbone.low_level_features.0.0.weight" in state:
        return "mobilenet_v2"
    if "backbone.layer1.0.conv1.weight" in state and "backbone.layer4.0.conv1.weight" in state:
        return find_resnet(state, "backbone.", path)
    first = next(key for key in state if key.startswith("backbone."))
    raise AtrousError(
        f"{path}: the backbone, with keys such as '{first}', is not supported; expected VainF's resnet50, resnet101 or "
        "mobilenet."
    )
