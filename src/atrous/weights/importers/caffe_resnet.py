"""Recognize Caffe's networks on ResNets by the names of their layers, and map these to ours.

PSPNet-101 has the stride of a stage on its 3x3 convolution, PSPNet-50 on the first 1x1: both prototxts say so.

Source: DeepLab v2: the layers in DrSleep/tensorflow-deeplab-resnet (`deeplab_resnet/model.py`) and
kazuto1011/deeplab-pytorch (`convert.py`), both converted from the released file; PSPNet: the prototxts in
hszhao/PSPNet (`evaluation/prototxt`).
"""

from __future__ import annotations

import re

from atrous.backbones.resnet import BLOCKS
from atrous.errors import AtrousError
from atrous.weights.importers.caffe_layers import (
    Layers,
    Network,
    Rule,
    conv,
    has,
    norm_and_scale,
    outputs,
    pspnet_features,
    slope_norm,
    stated,
    width_arguments,
)
from atrous.weights.importers.caffe_vgg import CRF_RNN_MEAN, DEEPLAB_MEAN

PSPNET_BINS = (1, 2, 3, 6)

SCALES = ("_res075", "_res05")
"""Suffixes of the copies of all layers, with the same weights, that run on smaller images."""


def deeplab_v2(layers: Layers) -> Network | None:
    """Recognize DeepLab v2 on ResNet-101, on one scale or on three."""
    scores = sorted(name for name in layers if re.match(r"fc1_", name) and has(layers, name))
    multi_scale = any(name.endswith(SCALES) for name in scores)
    scores = [name for name in scores if not name.endswith(SCALES)]
    if not (has(layers, "bn_conv1") and scores):
        return None
    rules = [conv("backbone.conv1", "conv1"), norm_and_scale("backbone.bn1", "bn_conv1", "scale_conv1")]
    for stage, units in enumerate(BLOCKS[101]):
        for unit in range(units):
            rules += _residual_unit(f"backbone.layer{stage + 1}.{unit}", stage + 2, unit, units)
    rules += [conv(f"aspp.branches.{index}", name) for index, name in enumerate(scores)]
    defaults = {name: 6 * (index + 1) for index, name in enumerate(scores)} if len(scores) > 1 else {scores[0]: 12}
    rates = [stated(layers[name], "dilation", rate) for name, rate in defaults.items()]
    arguments = width_arguments(layers, "conv1") | {"atrous_rates": tuple(rates)}
    model = f"deeplab_v2{'_msc' if multi_scale else ''}.resnet101"
    return Network(model, outputs(layers, scores[0], 21), DEEPLAB_MEAN, rules, arguments)


def pspnet(layers: Layers) -> Network | None:
    """Recognize PSPNet on ResNet-50, -101 or -152, with the stride and the pooling windows that the file states."""
    if not has(layers, "conv1_1_3x3_s2"):
        return None
    units = sum(1 for name in layers if re.fullmatch(r"conv4_\d+_3x3", name) and has(layers, name))
    depth = next((depth for depth, blocks in BLOCKS.items() if blocks[2] == units), 0)
    if not depth:
        raise AtrousError(f"conv4 has {units} units; expected 6 (ResNet-50), 23 (ResNet-101) or 36 (ResNet-152).")
    first = {0: "conv1_1_3x3_s2", 3: "conv1_2_3x3", 6: "conv1_3_3x3"}
    rules = [conv(f"backbone.conv1.{child}", layer) for child, layer in first.items()]
    norms = {"conv1.1": "conv1_1_3x3_s2", "conv1.4": "conv1_2_3x3", "bn1": "conv1_3_3x3"}
    rules += [slope_norm(f"backbone.{module}", f"{layer}/bn") for module, layer in norms.items()]
    for stage, blocks in enumerate(BLOCKS[depth]):
        for unit in range(blocks):
            rules += _pspnet_unit(f"backbone.layer{stage + 1}.{unit}", f"conv{stage + 2}_{unit + 1}", project=unit == 0)
    for index, bins in enumerate(PSPNET_BINS):
        rules += _normed(f"pyramid.convs.{index}", ("0", "1"), f"conv5_3_pool{bins}_conv")
    rules.append(pspnet_features("classifier.0.0", "conv5_4", len(PSPNET_BINS)))
    rules += [slope_norm("classifier.0.1", "conv5_4/bn"), conv("classifier.2", "conv6")]
    classes = outputs(layers, "conv6", 21)
    arguments = width_arguments(layers, "conv1_1_3x3_s2") | {
        "whole_stage": True,
        "auxiliary": False,
        "pooling_crop": (_crop(layers, classes),) * 2,
        "backbone_options": {"stride_on": _stride_on(layers, depth)},
    }
    return Network(f"pspnet.resnet{depth}", classes, CRF_RNN_MEAN, rules, arguments, {"grid": 8})


def _residual_unit(module: str, stage: int, unit: int, units: int) -> list[Rule]:
    """Map a unit of the released ResNet-101: a, b, c in short stages, a, b1, b2, ... in long ones."""
    letter = "abc"[unit] if units == 3 else f"b{unit}" if unit else "a"
    branches = {"conv1": "2a", "conv2": "2b", "conv3": "2c"} | ({"downsample.0": "1"} if unit == 0 else {})
    rules = []
    for child, branch in branches.items():
        norm = "downsample.1" if child == "downsample.0" else child.replace("conv", "bn")
        name = f"{stage}{letter}_branch{branch}"
        rules += [
            conv(f"{module}.{child}", f"res{name}"),
            norm_and_scale(f"{module}.{norm}", f"bn{name}", f"scale{name}"),
        ]
    return rules


def _pspnet_unit(module: str, name: str, *, project: bool) -> list[Rule]:
    rules = []
    for number, layer in enumerate(("1x1_reduce", "3x3", "1x1_increase"), start=1):
        rules += _normed(module, (f"conv{number}", f"bn{number}"), f"{name}_{layer}")
    return rules + (_normed(f"{module}.downsample", ("0", "1"), f"{name}_1x1_proj") if project else [])


def _normed(module: str, children: tuple[str, str], layer: str) -> list[Rule]:
    return [conv(f"{module}.{children[0]}", layer), slope_norm(f"{module}.{children[1]}", f"{layer}/bn")]


def _stride_on(layers: Layers, depth: int) -> str:
    """Find the convolution with the stride; of files that do not state it, only PSPNet-50 has it on the 1x1."""
    for kernel, layer in (("1x1", "conv3_1_1x1_reduce"), ("3x3", "conv3_1_3x3")):
        if layer in layers and stated(layers[layer], "stride", 1) == 2:
            return kernel
    return "1x1" if depth == 50 else "3x3"


def _crop(layers: Layers, classes: int) -> int:
    """Derive the crop from the largest pooling window, which is the size of its map at stride 8."""
    window = layers["conv5_3_pool1"].geometry.get("kernel_size", 0) if "conv5_3_pool1" in layers else 0
    return (window - 1) * 8 + 1 if 1 < window < 1000 else 713 if classes == 19 else 473
