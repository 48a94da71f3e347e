"""Recognize Caffe's networks on VGG-16 by the names of their layers, and map these to ours.

Source: the prototxts in shelhamer/fcn.berkeleyvision.org, bittnt/crfasrnn (`python-scripts`), TheLegendAli/
DeepLab-Context (`config`, DeepLab v1), talent518/deeplab-public-ver2 (`exper/voc12/config/vgg16`, DeepLab v2),
alexgkendall/SegNet-Tutorial (`Example_Models`) and fyu/dilation (`models`, `datasets` for the means).
"""

from __future__ import annotations

import re
from itertools import count, takewhile
from typing import Any

from atrous.backbones.vgg import STAGES
from atrous.errors import AtrousError
from atrous.weights.importers.caffe_layers import (
    Layers,
    Network,
    Rule,
    channel_scale,
    conv,
    folded_norm,
    has,
    mean_field,
    outputs,
    stated,
    width_arguments,
)

FCN_MEAN = (104.00699, 116.66877, 122.67892)
DEEPLAB_MEAN = (104.008, 116.669, 122.675)
CRF_RNN_MEAN = (103.939, 116.779, 123.68)
DILATED_MEANS = {
    21: (102.93, 111.36, 116.52),
    19: (72.39, 82.91, 73.16),
    11: (110.70313206, 108.77808759, 105.41212523),
}
"""By the number of classes: VOC, Cityscapes, CamVid."""
KITTI_MEAN = (96.19429688, 95.55136972, 91.34692262)

DILATED_MODELS = {4: "dilation7", 5: "dilation8", 7: "dilation10"}
"""By the number of the context module's last dilated convolution before `fc1`."""

SEGNET_SIZES = {11: (360, 480), 21: (224, 224)}
"""Height and width of the images of CamVid and VOC, by the number of classes."""


def vgg_rules(prefix: str = "", *, norm: bool = False) -> list[Rule]:
    """Map the thirteen convolutions, and with `norm` SegNet's normalization after each."""
    rules, index = [], 0
    for stage, (_, convs) in enumerate(STAGES, start=1):
        for position in range(1, convs + 1):
            layer = f"conv{stage}_{position}"
            rules.append(conv(f"{prefix}backbone.features.{index}", layer))
            if norm:
                rules.append(folded_norm(f"{prefix}backbone.features.{index + 1}", f"{layer}_bn"))
            index += 3 if norm else 2
        index += 1  # the pooling
    return rules


def fully_connected_rules(prefix: str = "") -> list[Rule]:
    """Map fc6 and fc7 as convolutions."""
    return [conv(f"{prefix}backbone.classifier.{child}", layer) for child, layer in ((0, "fc6"), (3, "fc7"))]


def fcn(layers: Layers) -> Network | None:
    """Recognize FCN-32s, FCN-16s and FCN-8s, also trained at once, and CRF-RNN, which is FCN-8s with a mean field."""
    score = _first(layers, "score_fr", "score-fr")
    if not has(layers, score):
        return None
    skips = [_first(layers, f"score_pool{n}", f"score-pool{n}") for n in (4, 3)]
    skips = list(takewhile(lambda name: has(layers, name), skips))
    at_once = len(skips) == 2 and has(layers, "scale_pool4")
    crf = has(layers, "inference1")
    prefix = "network." if crf else ""
    rules = [*vgg_rules(prefix), *fully_connected_rules(prefix), conv(f"{prefix}score", score)]
    for index, skip in enumerate(skips):
        module = f"{prefix}score_skips.{index}"
        if at_once:
            rules.append(channel_scale(f"{module}.0", f"scale_pool{4 - index}"))
        rules.append(conv(f"{module}.{int(at_once)}", skip))
    upsampling = (("upscore2", "score2"), ("upscore_pool4", "score4"))[: len(skips)]
    names = [_first(layers, *choices) for choices in upsampling]
    names.append(_first(layers, "upscore", "upscore16", "upscore8", "upsample"))
    rules += [conv(f"{prefix}upscore.{index}", name) for index, name in enumerate(names)]
    classes, arguments = outputs(layers, score, 21), width_arguments(layers, "conv1_1")
    if crf:
        rules.append(mean_field("crf", "inference1"))
        arguments["weight_matrices"] = True
        return Network("crf_rnn.vgg16", classes, CRF_RNN_MEAN, rules, arguments, {"resize": "pad", "size": (500, 500)})
    if skips and has(layers, names[0]) and len(layers[names[0]].blobs) == 2:
        arguments["upsampling_bias"] = True
    model = f"fcn_{32 >> len(skips)}s{'_at_once' if at_once else ''}.vgg16"
    return Network(model, classes, FCN_MEAN, rules, arguments)


def deeplab_v1(layers: Layers) -> Network | None:
    """Recognize DeepLab-LargeFOV, v1 or v2, DeepLab-MSc-LargeFOV and DeepLab-MSc."""
    score = next((name for name in layers if re.match(r"fc8[_-]", name) and has(layers, name)), "")
    if not (score and has(layers, "fc6") and has(layers, "conv1_1")):
        return None
    rules = [*vgg_rules()]
    classes, arguments = outputs(layers, score, 21), width_arguments(layers, "conv1_1")
    kernel, rate = _fc6_geometry(layers)
    msc = has(layers, "data_ms")
    if kernel == 3 and not msc and "pool5" in layers and "pool5a" not in layers:
        rules += _branch_rules("aspp.branches.0", ("fc6", "fc7", score))
        return Network("deeplab_v2.vgg16", classes, DEEPLAB_MEAN, rules, {**arguments, "atrous_rates": (rate,)})
    if kernel != 3:
        if kernel != 4 or not msc:
            raise AtrousError(
                f"fc6 is of {kernel}x{kernel}: of DeepLab v1, LargeFOV (3x3), MSc-LargeFOV and MSc (4x4) can be "
                "imported. The variants with pooling of 2x2 pad each pooling at its beginning, which our network does "
                "not."
            )
        arguments["fov"] = "4x4" if rate == 8 else "small"
    rules += [*fully_connected_rules(), conv("classifier", score)]
    for index, source in enumerate(("data", "pool1", "pool2", "pool3", "pool4") if msc else ()):
        rules += _branch_rules(f"branches.{index}", (f"{source}_conv", f"{source}_fc", f"{source}_ms"))
    return Network(f"deeplab_v1{'_msc' if msc else ''}.vgg16", classes, DEEPLAB_MEAN, rules, arguments)


def deeplab_v2(layers: Layers) -> Network | None:
    """Recognize DeepLab v2 with ASPP, whose branches have the rates that the file states."""
    if not has(layers, "fc6_1"):
        return None
    numbers = list(takewhile(lambda number: has(layers, f"fc6_{number}"), count(1)))
    rules, rates, score = vgg_rules(), [], ""
    for number in numbers:
        score = next((name for name in layers if re.fullmatch(rf"fc8_.*_{number}", name)), f"fc8_voc12_{number}")
        rules += _branch_rules(f"aspp.branches.{number - 1}", (f"fc6_{number}", f"fc7_{number}", score))
        rates.append(stated(layers[f"fc6_{number}"], "dilation", 6 * number))
    arguments = width_arguments(layers, "conv1_1") | {"atrous_rates": tuple(rates)}
    return Network("deeplab_v2.vgg16", outputs(layers, score, 21), DEEPLAB_MEAN, rules, arguments)


def dilated(layers: Layers) -> Network | None:
    """Recognize the front end of dilated networks, alone or with a basic or the large context module."""
    score = _first(layers, "fc-final", "final")
    if not (has(layers, score) and has(layers, "fc6") and has(layers, "conv1_1")):
        return None
    classes, arguments = outputs(layers, score, 21), width_arguments(layers, "conv1_1")
    rules = [*vgg_rules(), *fully_connected_rules(), conv("score", score)]
    mean = DILATED_MEANS.get(classes, DILATED_MEANS[21])
    prefix = "ct" if has(layers, "ct_conv1_1") else "ctx"
    if not has(layers, f"{prefix}_conv1_1"):
        return Network("dilated_frontend.vgg16", classes, mean, rules, arguments)
    last = 1 + sum(1 for _ in takewhile(lambda number: has(layers, f"{prefix}_conv{number}_1"), count(2)))
    if last not in DILATED_MODELS:
        raise AtrousError(
            f"the context module ends at '{prefix}_conv{last}_1'; expected 4 (KITTI), 5, or 7 (Cityscapes)."
        )
    names = [f"{prefix}_conv1_1", f"{prefix}_conv1_2", *(f"{prefix}_conv{number}_1" for number in range(2, last + 1))]
    names.append(f"{prefix}_fc1")
    rules += [conv(f"context.convs.{index}", name) for index, name in enumerate(names)]
    rules.append(conv("context.final", f"{prefix}_final"))
    if has(layers, f"{prefix}_upsample"):
        rules.append(conv("upsample", f"{prefix}_upsample"))
    model = DILATED_MODELS[last]
    if model == "dilation8" and outputs(layers, names[0], classes) == classes:
        arguments["context"] = "basic"
    if has(layers, f"{prefix}_upsample") != (model == "dilation10"):
        arguments["deconvolution"] = has(layers, f"{prefix}_upsample")
    return Network(f"{model}.vgg16", classes, KITTI_MEAN if model == "dilation7" else mean, rules, arguments)


def segnet(layers: Layers) -> Network | None:
    """Recognize SegNet and SegNet-Basic, with the folded normalization of their scripts; Bayesian by its dropout."""
    basic = has(layers, "conv_decode4")
    if not (basic or has(layers, "conv1_2_D")):
        return None
    rules = _basic_segnet_rules(layers) if basic else _segnet_rules()
    bayesian = any(name.startswith(("encdrop", "decdrop")) for name in layers)
    model = f"{'bayesian_' if bayesian else ''}segnet.{'basic' if basic else 'vgg16'}"
    classes = outputs(layers, rules[-1].layers[0], 11)
    size = SEGNET_SIZES.get(classes)
    resize: dict[str, Any] = {"resize": "squeeze", "size": size} if size else {}
    arguments = width_arguments(layers, "conv1" if basic else "conv1_1")
    return Network(model, classes, (0.0, 0.0, 0.0), rules, arguments, resize)


def _segnet_rules() -> list[Rule]:
    rules = vgg_rules(norm=True)
    for index, (stage, (_, convs)) in enumerate(reversed(list(enumerate(STAGES, start=1)))):
        for child, position in enumerate(range(convs, int(stage == 1), -1)):
            rules += _normed(f"decoder.{index}.{child}", f"conv{stage}_{position}_D")
    return [*rules, conv("classifier", "conv1_1_D")]


def _basic_segnet_rules(layers: Layers) -> list[Rule]:
    rules = []
    for index in range(4):
        rules += _normed(f"backbone.convs.{index}", f"conv{index + 1}")
        rules += _normed(f"decoder.{index}", f"conv_decode{4 - index}")
    return [*rules, conv("classifier", _first(layers, "dense_softmax_inner_prod", "conv_classifier"))]


def _normed(module: str, layer: str) -> list[Rule]:
    return [conv(f"{module}.0", layer), folded_norm(f"{module}.1", f"{layer}_bn")]


def _branch_rules(module: str, layers: tuple[str, str, str]) -> list[Rule]:
    return [conv(f"{module}.{child}", layer) for child, layer in zip((0, 3, 6), layers, strict=True)]


def _fc6_geometry(layers: Layers) -> tuple[int, int]:
    """Read kernel size and rate of fc6; 12 and 4 are the rates of the released 3x3 and 4x4."""
    shape = layers["fc6"].blobs[0].shape
    kernel = shape[-1] if len(shape) == 4 else 0
    return kernel, stated(layers["fc6"], "dilation", 12 if kernel == 3 else 4)


def _first(layers: Layers, *names: str) -> str:
    """Find the first of several names under which a layer was released; the first of all if there is none."""
    return next((name for name in names if has(layers, name)), names[0])
