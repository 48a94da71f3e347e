"""Import state dicts of segmentation_models_pytorch (smp): DeepLabV3, DeepLabV3Plus and PSPNet.

The backbones are ResNet-50, -101, -152 and MobileNetV2. smp dilates whole stages: the first 3x3 convolution of a stage,
which lost its stride, gets the rate of the stage too, although its input is not denser than at stride 32. So its
features are not those of the ImageNet classifier sampled densely. Networks are built to compute what smp computes
(`backbone_options={"whole_stage": True}`); with `whole_stage=False` the same weights load into the exactly dilated
network. Further differences from ours:

- Separable convolutions have neither batch normalization nor ReLU between their halves.
- DeepLabV3 and DeepLabV3Plus have a further 3x3 convolution after ASPP, and DeepLabV3Plus only one in the decoder. Its
  rates are 12, 24, 36 at output stride 16.
- MobileNetV2 keeps the classifier's 1x1 convolution to 1280 channels, and the epsilon of its batch normalization is
  1e-5.
- PSPNet takes the features of stride 8, before the third stage, and no dilation; the later stages of the file are not
  used. Its grid of one bin has no batch normalization, the convolution after the pyramid is 1x1, the classifier 3x3.
- A single output is the logit of a sigmoid: it becomes the second of two classes, the first has the logit 0.

Output strides and rates leave no trace in the file; they are smp's defaults, unless other arguments are given.

Source: segmentation_models_pytorch 0.6, decoders/deeplabv3, decoders/pspnet and encoders/_base.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from atrous.card import Card
from atrous.console import printable
from atrous.errors import AtrousError
from atrous.models import SegmentationModel
from atrous.weights.importers.networks import (
    Network,
    build_network,
    channels_of,
    find_resnet,
    first_inputs_last,
)
from atrous.weights.tensors import rename_keys

Table = tuple[tuple[str, str], ...]

ENCODER: Table = ((r"encoder\.", "backbone."),)

ASPP: Table = (
    (r"decoder\.(?:aspp|0)\.(?:0\.)?convs\.([123])\.0\.([01])\.weight", r"aspp.branches.\1.\2.0.weight"),
    (r"decoder\.(?:aspp|0)\.(?:0\.)?convs\.([0123])\.", r"aspp.branches.\1."),
    (r"decoder\.(?:aspp|0)\.(?:0\.)?convs\.4\.1\.", "aspp.pooling.conv.0."),
    (r"decoder\.(?:aspp|0)\.(?:0\.)?convs\.4\.2\.", "aspp.pooling.conv.1."),
    (r"decoder\.(?:aspp|0)\.(?:0\.)?project\.", "aspp.project."),
)
"""Keys of ASPP: `decoder.aspp.` in DeepLabV3 (`decoder.0.` in old versions), `decoder.aspp.0.` in DeepLabV3Plus."""

SEPARABLE_ASPP: Table = ((r"decoder\.(?:aspp|0)\.(?:0\.)?convs\.([123])\.1\.", r"aspp.branches.\1.1.1."),)
"""The batch normalization of separable branches."""

DEEPLAB_V3: Table = (
    *ASPP,
    (r"decoder\.(?:conv|1)\.", "refine.0."),
    (r"decoder\.(?:bn|2)\.", "refine.1."),
    (r"segmentation_head\.0\.", "classifier."),
)

DEEPLAB_V3_PLUS: Table = (
    *ASPP,
    (r"decoder\.aspp\.1\.([01])\.", r"refine.\1.0."),
    (r"decoder\.aspp\.2\.", "refine.1.1."),
    (r"decoder\.block1\.([01])\.", r"decoder.reduce.\1."),
    (r"decoder\.block2\.0\.([01])\.", r"decoder.refine.0.\1.0."),
    (r"decoder\.block2\.1\.", "decoder.refine.0.1.1."),
    (r"segmentation_head\.0\.", "classifier."),
)

PSPNET: Table = (
    (r"decoder\.psp\.blocks\.(\d)\.pool\.1\.", r"pyramid.convs.\1."),
    (r"decoder\.conv\.", "classifier.0."),
    (r"segmentation_head\.0\.", "classifier.2."),
)

MOBILENET_OPTIONS = {"norm_eps": 1e-5}
STAGES = {"resnet": {512: 2, 1024: 3, 2048: 4}, "mobilenet": {32: 2, 96: 3, 1280: 4}}
"""The stages that run in PSPNet, by the backbone's number of channels."""


def recognizes(state: Mapping[str, Tensor]) -> bool:
    """Tell whether a state dict has the keys of a network of segmentation_models_pytorch."""
    return any(key.startswith("segmentation_head.0.") for key in state) and any(
        key.startswith("encoder.") for key in state
    )


def build(state: Mapping[str, Tensor], path: Path) -> tuple[SegmentationModel, Card]:
    """Build the network of a state dict.

    Raises: `AtrousError` for another decoder or encoder, and for keys or shapes that differ.
    """
    state = {key: value for key, value in state.items() if not key.startswith("classification_head.")}
    backbone = _find_encoder(state, path)
    if "decoder.psp.blocks.0.pool.1.0.weight" in state:
        return _build_pspnet(state, backbone, path)
    for first, plus in (("decoder.aspp.0.", True), ("decoder.aspp.", False), ("decoder.0.", False)):
        if f"{first}convs.0.0.weight" in state:
            return _build_deeplab(state, backbone, path, aspp=first, plus=plus)
    kind = "a U-Net on a classifier" if "decoder.blocks.0.conv1.0.weight" in state else "another network"
    raise AtrousError(
        f"{path}: the decoder, with keys such as {_first(state, 'decoder.')}, is {kind} of "
        "segmentation_models_pytorch; expected its DeepLabV3, DeepLabV3Plus or PSPNet."
    )


def _find_encoder(state: Mapping[str, Tensor], path: Path) -> str:
    if "encoder.features.18.0.weight" in state:
        return "mobilenet_v2"
    if "encoder.layer1.0.conv1.weight" in state:
        return find_resnet(state, "encoder.", path)
    raise AtrousError(
        f"{path}: the encoder, with keys such as {_first(state, 'encoder.')}, is not supported; expected resnet50, "
        "resnet101, resnet152 or mobilenet_v2 of segmentation_models_pytorch."
    )


def _first(state: Mapping[str, Tensor], prefix: str) -> str:
    return next((f"'{printable(key):.200}'" for key in state if key.startswith(prefix)), "none")


def _build_deeplab(
    state: Mapping[str, Tensor], backbone: str, path: Path, *, aspp: str, plus: bool
) -> tuple[SegmentationModel, Card]:
    separable = f"{aspp}convs.1.0.1.weight" in state
    options: dict[str, Any] = {"whole_stage": True}
    arguments: dict[str, Any] = {
        "output_stride": 16 if plus else 8,
        "atrous_rates": (12, 24, 36) if plus else (6, 12, 18),
        "channels": channels_of(state, f"{aspp}convs.0.0.weight", path),
        "separable": separable,
        "depthwise_norm": False,
        "dropout": 0.5,
        "refine": "separable" if plus else True,
    }
    if backbone == "mobilenet_v2":
        options |= {**MOBILENET_OPTIONS, "last_conv": True}
    else:
        arguments["multi_grid"] = (1, 1, 1)
    if plus:
        arguments |= {
            "decoder_separable": True,
            "decoder_convs": 1,
            "decoder_channels": channels_of(state, "decoder.block2.0.1.weight", path),
        }
    table = DEEPLAB_V3_PLUS if plus else DEEPLAB_V3
    tensors = rename_keys(state, (*(SEPARABLE_ASPP if separable else ()), *table, *ENCODER))
    name = f"deeplab_v3_plus.{backbone}" if plus else f"deeplab_v3.{backbone}"
    return _build(name, {**arguments, "backbone_options": options}, tensors, path)


def _build_pspnet(state: Mapping[str, Tensor], backbone: str, path: Path) -> tuple[SegmentationModel, Card]:
    features = channels_of(state, "decoder.psp.blocks.0.pool.1.0.weight", path, axis=1)
    mobile = backbone == "mobilenet_v2"
    stages = STAGES["mobilenet" if mobile else "resnet"].get(features)
    if stages is None:
        raise AtrousError(f"{path}: the pyramid pools {features} channels, as many as no stage of the encoder has.")
    options: dict[str, Any] = {"stages": stages}
    if mobile:
        options |= {**MOBILENET_OPTIONS, "last_conv": stages == 4}
    arguments: dict[str, Any] = {
        "output_stride": 2 ** (stages + 1),
        "channels": channels_of(state, "decoder.conv.0.weight", path),
        "kernel_sizes": (1, 3),
        "normalize_single_bin": "decoder.psp.blocks.0.pool.1.1.weight" in state,
        "dropout": 0.2,
        "auxiliary": False,
        "backbone_options": options,
    }
    if not mobile:
        arguments["stem"] = "plain"
    used = {key: value for key, value in state.items() if _is_used(key, stages, mobile)}
    tensors = rename_keys(used, (*PSPNET, *ENCODER))
    first_inputs_last(tensors, "classifier.0.0.weight", features // 4 * 4)
    return _build(f"pspnet.{backbone}", arguments, tensors, path)


def _is_used(key: str, stages: int, mobile: bool) -> bool:
    """Tell whether PSPNet computes a tensor of the encoder, which has stages that follow its features."""
    parts = key.split(".")
    if mobile and parts[:2] == ["encoder", "features"] and parts[2].isdecimal():
        return int(parts[2]) <= {2: 6, 3: 13, 4: 18}[stages]
    return mobile or not (parts[0] == "encoder" and parts[1] in {f"layer{stage}" for stage in range(stages + 1, 5)})


def _build(
    name: str, arguments: Mapping[str, Any], tensors: dict[str, Tensor], path: Path
) -> tuple[SegmentationModel, Card]:
    classifier = "classifier.2" if name.startswith("pspnet") else "classifier"
    for kind in ("weight", "bias"):
        value = tensors.get(f"{classifier}.{kind}")
        if value is not None and value.shape[:1] == (1,):
            tensors[f"{classifier}.{kind}"] = torch.cat([torch.zeros_like(value), value])
    network = Network(name, arguments, "segmentation_models_pytorch", align_corners=True, known_classes=False)
    return build_network(network, tensors, path)
