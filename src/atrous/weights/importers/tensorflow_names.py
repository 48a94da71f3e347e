"""Tables of the variables of TensorFlow DeepLab: the names of TF-slim's scopes beside those of our layers.

A layer is a convolution and the batch normalization after it, in one scope of TensorFlow.

Source: TensorFlow's research/deeplab (`model.py`, `core/xception.py`, `core/resnet_v1_beta.py`) and
slim/nets/mobilenet.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from torch import nn

from atrous.backbones import Backbone
from atrous.backbones.mobilenet_v2 import InvertedResidual, MobileNetV2
from atrous.backbones.resnet import Bottleneck, ResNet
from atrous.backbones.xception import Block, Xception
from atrous.errors import AtrousError
from atrous.layers.conv import ConvNormAct, SeparableConv
from atrous.models.deeplab_v3 import DeepLabV3
from atrous.models.deeplab_v3_plus import DeepLabV3Plus

NORM = {"weight": "gamma", "bias": "beta", "running_mean": "moving_mean", "running_var": "moving_variance"}
"""The tensors of a batch normalization here, and the variables of its scope `BatchNorm`."""


class Layer(NamedTuple):
    """A convolution and its batch normalization: the keys here, and the scope there."""

    conv: str
    norm: str
    scope: str
    depthwise: bool = False


def network_layers(model: DeepLabV3, scope: str) -> Iterator[Layer]:
    """List the layers of a network without its classifier; `scope` is that of the backbone, such as "xception_65"."""
    for layer in backbone_layers(model.backbone, scope):
        yield layer._replace(conv=f"backbone.{layer.conv}", norm=f"backbone.{layer.norm}")
    yield from _head(model)


def backbone_layers(backbone: Backbone, scope: str) -> Iterator[Layer]:
    """List the layers of a backbone.

    Raises: `AtrousError` for a backbone that TensorFlow DeepLab does not have.
    """
    if isinstance(backbone, MobileNetV2):
        return _mobilenet_v2(backbone, scope)
    if isinstance(backbone, Xception):
        return _xception(backbone, scope)
    if isinstance(backbone, ResNet):
        return _resnet(backbone, scope)
    raise AtrousError(
        f"{backbone.name or type(backbone).__name__} has no counterpart in TensorFlow DeepLab; expected MobileNetV2, "
        "Xception or ResNet."
    )


def _layer(key: str, scope: str, *, depthwise: bool = False) -> Layer:
    """Name a `ConvNormAct`."""
    return Layer(f"{key}.0", f"{key}.1", scope, depthwise)


def _separable(key: str, scope: str) -> Iterator[Layer]:
    yield _layer(f"{key}.0", f"{scope}_depthwise", depthwise=True)
    yield _layer(f"{key}.1", f"{scope}_pointwise")


def _mobilenet_v2(backbone: MobileNetV2, scope: str) -> Iterator[Layer]:
    yield _layer("features.0", f"{scope}/Conv")
    for index, unit in enumerate(backbone.blocks()[1:], start=1):
        assert isinstance(unit, InvertedResidual)
        unit_scope = f"{scope}/expanded_conv" + (f"_{index - 1}" if index > 1 else "")
        key = f"features.{index}.conv"
        last = len(unit.conv) - 2  # without an expansion there is one layer less
        if last > 1:
            yield _layer(f"{key}.0", f"{unit_scope}/expand")
        yield _layer(f"{key}.{last - 1}", f"{unit_scope}/depthwise", depthwise=True)
        yield Layer(f"{key}.{last}", f"{key}.{last + 1}", f"{unit_scope}/project")


def _resnet(backbone: ResNet, scope: str) -> Iterator[Layer]:
    if isinstance(backbone.conv1, nn.Sequential):  # three 3x3 convolutions; the activations count as children
        for index in (1, 2):
            first = 3 * (index - 1)
            yield Layer(f"conv1.{first}", f"conv1.{first + 1}", f"{scope}/conv1_{index}")
        yield Layer("conv1.6", "bn1", f"{scope}/conv1_3")
    else:
        yield Layer("conv1", "bn1", f"{scope}/conv1")
    for number, stage in enumerate(backbone.stages(), start=1):
        for index, unit in enumerate(stage):
            assert isinstance(unit, Bottleneck)
            key = f"layer{number}.{index}"
            unit_scope = f"{scope}/block{number}/unit_{index + 1}/bottleneck_v1"
            for conv in (1, 2, 3):
                yield Layer(f"{key}.conv{conv}", f"{key}.bn{conv}", f"{unit_scope}/conv{conv}")
            if isinstance(unit.downsample, ConvNormAct):  # not an identity that subsamples
                yield _layer(f"{key}.downsample", f"{unit_scope}/shortcut")


def _xception(backbone: Xception, scope: str) -> Iterator[Layer]:
    for index in (0, 1):
        yield _layer(f"stem.{index}", f"{scope}/entry_flow/conv1_{index + 1}")
    blocks = [(f"entry.{index}", f"entry_flow/block{index + 1}/unit_1") for index in range(len(backbone.entry))]
    blocks += [(f"middle.{index}", f"middle_flow/block1/unit_{index + 1}") for index in range(len(backbone.middle))]
    blocks.append(("exit", "exit_flow/block1/unit_1"))
    for name, place in blocks:
        key, unit_scope = name, f"{scope}/{place}/xception_module"
        for conv in (1, 2, 3):
            yield from _separable(f"{key}.conv{conv}", f"{unit_scope}/separable_conv{conv}")
        block = backbone.get_submodule(name)
        assert isinstance(block, Block)
        if block.shortcut is not None:
            yield _layer(f"{key}.shortcut", f"{unit_scope}/shortcut")
    for index in range(3):
        last = f"{scope}/exit_flow/block2/unit_1/xception_module/separable_conv{index + 1}"
        yield from _separable(f"exit2.{index}", last)


def _head(model: DeepLabV3) -> Iterator[Layer]:
    yield _layer("aspp.branches.0", "aspp0")
    for index, branch in enumerate(list(model.aspp.branches)[1:], start=1):
        key, scope = f"aspp.branches.{index}", f"aspp{index}"
        yield from _separable(key, scope) if isinstance(branch, SeparableConv) else [_layer(key, scope)]
    if model.aspp.pooling is not None:
        yield _layer("aspp.pooling.conv", "image_pooling")
    yield _layer("aspp.project", "concat_projection")
    if not isinstance(model, DeepLabV3Plus):
        return
    stages = ["decoder"] if model.conv3 is None else ["conv3", "decoder"]
    for stage, name in enumerate(stages):
        ending = f"_{stage}" if stage else ""
        yield _layer(f"{name}.reduce", f"decoder/feature_projection0{ending}")
        for index, conv in enumerate(model.get_submodule(f"{name}.refine").children()):
            if isinstance(conv, SeparableConv):
                yield from _separable(f"{name}.refine.{index}", f"decoder/decoder_conv{index}{ending}")
            else:  # slim.repeat numbers them within a scope of their own
                repeated = f"decoder_conv0{ending}"
                yield _layer(f"{name}.refine.{index}", f"decoder/{repeated}/{repeated}_{index + 1}")
