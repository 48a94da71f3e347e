"""Import state dicts of mmsegmentation: FCN, PSPNet, DeepLabV3 and DeepLabV3Plus on ResNet and ResNetV1c, "D8".

Its dilation is the exact one (`contract_dilation=True`). What differs from ours:

- The stem of ResNetV1c has 32, 32 and 64 channels.
- All resizes have `align_corners=False`, PSPNet's pyramid included.
- ASPP has 512 channels, concatenates image pooling before the branches, and ends in a 3x3 convolution.
- FCN's head has two 3x3 convolutions, and a third that fuses their result with their input.

Output stride and rates leave no trace in the file; they are 8 and 12, 24, 36, as in the "D8" configurations, unless
other arguments are given. Neither do the classes: 21, 19 and 150 are named as VOC's, Cityscapes' and ADE20K's.

Source: mmsegmentation 1.x, mmseg/models/backbones/resnet.py, mmseg/models/decode_heads and configs/_base_/models.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from atrous.card import Card
from atrous.errors import AtrousError
from atrous.models import SegmentationModel
from atrous.weights.importers.networks import (
    Network,
    build_network,
    channels_of,
    count_units,
    find_resnet,
    first_inputs_last,
)
from atrous.weights.tensors import rename_keys

COMMON = (
    (r"backbone\.stem\.7\.", "backbone.bn1."),
    (r"backbone\.stem\.", "backbone.conv1."),
    (r"auxiliary_head\.convs\.0\.conv\.", "auxiliary.0.0."),
    (r"auxiliary_head\.convs\.0\.bn\.", "auxiliary.0.1."),
    (r"auxiliary_head\.conv_seg\.", "auxiliary.2."),
)
"""Keys of the stem of ResNetV1c and of the auxiliary head; those of the ResNet's stages are ours."""

FCN = (
    (r"decode_head\.convs\.(\d)\.conv\.", r"classifier.0.convs.\1.0."),
    (r"decode_head\.convs\.(\d)\.bn\.", r"classifier.0.convs.\1.1."),
    (r"decode_head\.conv_cat\.conv\.", "classifier.0.fuse.0."),
    (r"decode_head\.conv_cat\.bn\.", "classifier.0.fuse.1."),
    (r"decode_head\.conv_seg\.", "classifier.2."),
)
SINGLE_FCN = (
    (r"decode_head\.convs\.0\.conv\.", "classifier.0.0."),
    (r"decode_head\.convs\.0\.bn\.", "classifier.0.1."),
)
"""Keys of an FCN head of one convolution, without fusion."""

PSPNET = (
    (r"decode_head\.psp_modules\.(\d)\.1\.conv\.", r"pyramid.convs.\1.0."),
    (r"decode_head\.psp_modules\.(\d)\.1\.bn\.", r"pyramid.convs.\1.1."),
    (r"decode_head\.bottleneck\.conv\.", "classifier.0.0."),
    (r"decode_head\.bottleneck\.bn\.", "classifier.0.1."),
    (r"decode_head\.conv_seg\.", "classifier.2."),
)

DEEPLAB = (
    (r"decode_head\.image_pool\.1\.conv\.", "aspp.pooling.conv.0."),
    (r"decode_head\.image_pool\.1\.bn\.", "aspp.pooling.conv.1."),
    (r"decode_head\.aspp_modules\.(\d)\.conv\.", r"aspp.branches.\1.0."),
    (r"decode_head\.aspp_modules\.(\d)\.bn\.", r"aspp.branches.\1.1."),
    (r"decode_head\.aspp_modules\.(\d)\.depthwise_conv\.conv\.", r"aspp.branches.\1.0.0."),
    (r"decode_head\.aspp_modules\.(\d)\.depthwise_conv\.bn\.", r"aspp.branches.\1.0.1."),
    (r"decode_head\.aspp_modules\.(\d)\.pointwise_conv\.conv\.", r"aspp.branches.\1.1.0."),
    (r"decode_head\.aspp_modules\.(\d)\.pointwise_conv\.bn\.", r"aspp.branches.\1.1.1."),
    (r"decode_head\.bottleneck\.conv\.", "aspp.project.0."),
    (r"decode_head\.bottleneck\.bn\.", "aspp.project.1."),
    (r"decode_head\.c1_bottleneck\.conv\.", "decoder.reduce.0."),
    (r"decode_head\.c1_bottleneck\.bn\.", "decoder.reduce.1."),
    (r"decode_head\.sep_bottleneck\.(\d)\.depthwise_conv\.conv\.", r"decoder.refine.\1.0.0."),
    (r"decode_head\.sep_bottleneck\.(\d)\.depthwise_conv\.bn\.", r"decoder.refine.\1.0.1."),
    (r"decode_head\.sep_bottleneck\.(\d)\.pointwise_conv\.conv\.", r"decoder.refine.\1.1.0."),
    (r"decode_head\.sep_bottleneck\.(\d)\.pointwise_conv\.bn\.", r"decoder.refine.\1.1.1."),
    (r"decode_head\.conv_seg\.", "classifier."),
)


def recognizes(state: Mapping[str, Tensor]) -> bool:
    """Tell whether a state dict has the keys of an encoder-decoder of mmsegmentation."""
    return any(key.startswith("decode_head.") for key in state) and any(key.startswith("backbone.") for key in state)


def build(state: Mapping[str, Tensor], path: Path) -> tuple[SegmentationModel, Card]:
    """Build the network of a state dict.

    Raises: `AtrousError` for another head or backbone, and for keys or shapes that differ.
    """
    backbone = _find_backbone(state, path)
    stem = "v1c" if "backbone.stem.0.weight" in state else "plain"
    arguments: dict[str, Any] = {
        "output_stride": 8,
        "auxiliary": any(key.startswith("auxiliary_head.") for key in state),
        "auxiliary_weight": 0.4,
    }
    if "decode_head.psp_modules.0.1.conv.weight" in state:
        channels = channels_of(state, "decode_head.bottleneck.conv.weight", path)
        psp = {"channels": channels, "align_corners": False, "stem": stem}
        return _build(f"pspnet.{backbone}", arguments | psp, PSPNET, state, path)
    arguments["backbone_options"] = {"stem": stem}
    if "decode_head.aspp_modules.0.conv.weight" in state:
        return _build_deeplab(state, backbone, arguments, path)
    if "decode_head.convs.0.conv.weight" in state:
        convs = count_units(state, "decode_head.convs.")
        fused = "decode_head.conv_cat.conv.weight" in state
        if fused == (convs == 1):
            raise AtrousError(
                f"{path}: the FCN head has {convs} convolutions {'with' if fused else 'without'} fusion; expected one "
                "without, or several with it."
            )
        table = FCN if fused else (*SINGLE_FCN, *FCN)
        return _build(f"fcn.{backbone}", arguments | {"head_convs": convs}, table, state, path)
    first = next(key for key in state if key.startswith("decode_head."))
    raise AtrousError(
        f"{path}: the head of mmsegmentation, with keys such as '{first}', is not known; expected FCN, PSPNet, "
        "DeepLabV3 or DeepLabV3Plus."
    )


def _find_backbone(state: Mapping[str, Tensor], path: Path) -> str:
    if "backbone.layer1.0.conv1.weight" not in state:
        first = next(key for key in state if key.startswith("backbone."))
        raise AtrousError(
            f"{path}: the backbone of mmsegmentation, with keys such as '{first}', is not supported; expected ResNet "
            "or ResNetV1c of 50, 101 or 152 layers."
        )
    return find_resnet(state, "backbone.", path)


def _build_deeplab(
    state: Mapping[str, Tensor], backbone: str, arguments: dict[str, Any], path: Path
) -> tuple[SegmentationModel, Card]:
    channels = channels_of(state, "decode_head.aspp_modules.0.conv.weight", path)
    plus = "decode_head.c1_bottleneck.conv.weight" in state
    deeplab = {
        "multi_grid": (1, 1, 1),
        "channels": channels,
        "separable": "decode_head.aspp_modules.1.depthwise_conv.conv.weight" in state,
        "project_kernel_size": channels_of(state, "decode_head.bottleneck.conv.weight", path, axis=3),
    }
    if plus:
        low = channels_of(state, "decode_head.c1_bottleneck.conv.weight", path)
        deeplab |= {"decoder_channels": channels, "low_level_channels": low}
    name = f"deeplab_v3_plus.{backbone}" if plus else f"deeplab_v3.{backbone}"
    return _build(name, arguments | deeplab, DEEPLAB, state, path)


def _build(
    name: str, arguments: Mapping[str, Any], table: tuple[tuple[str, str], ...], state: Mapping[str, Tensor], path: Path
) -> tuple[SegmentationModel, Card]:
    tensors = rename_keys(state, (*table, *COMMON))
    first_inputs_last(tensors, "aspp.project.0.weight", int(arguments.get("channels", 0)))
    return build_network(Network(name, arguments, "mmsegmentation"), tensors, path)
