"""Tell which variant of TensorFlow DeepLab has these variables, and write its card."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from atrous.card import Card, Preprocessing
from atrous.errors import AtrousError
from atrous.layers.aspp import NOMINAL_OUTPUT_STRIDE
from atrous.weights.importers.classes import name_classes
from atrous.weights.importers.tensorflow_graph import FrozenGraph
from atrous.weights.importers.tflite_mobilenet import UNITS, check_width

Shape = tuple[int, ...]
Shapes = Mapping[str, Shape]

CLASSIFIER = "logits/semantic"
"""The scope of the classifier."""

BACKBONES = {
    "MobilenetV2": "mobilenet_v2",
    "xception_41": "xception41",
    "xception_65": "xception65",
    "xception_71": "xception71",
    "resnet_v1_50": "resnet50_beta",
    "resnet_v1_101": "resnet101_beta",
}
"""Our backbones by TensorFlow's scopes."""

RATES = {0: (), 3: (6, 12, 18)}
"""The atrous rates of the release at output stride 16, by their number."""

_OUTPUT_STRIDE, _NATIVE_STRIDE = 16, 32
_SHOWN = 5
_IMAGENET_MEAN = (123.15, 115.90, 103.06)

CROPS = {"VOC": (513, 513), "Cityscapes": (1025, 2049), "ADE20K": (513, 513)}
"""The evaluation crops of the release, by data set."""

_SMALL_CROP = "mobilenet_v2", "ADE20K", (257, 257)
"""The released MobileNetV2 for ADE20K takes smaller images."""


def describe_network(path: Path, shapes: Shapes, graph: FrozenGraph | None) -> tuple[str, Card]:
    """Describe the network with these variables: the scope of its backbone, and a card with its arguments.

    Raises: `AtrousError` for variables of a classifier, or of a backbone or head that is not known.
    """
    scope = find_backbone(path, shapes)
    if len(shapes.get("aspp0/weights", ())) != 4 or len(shapes.get(f"{CLASSIFIER}/weights", ())) != 4:
        _refuse_head(path, shapes)
    backbone = _Backbone(path, shapes, scope)
    head = _head_arguments(path, shapes)
    decoder = _decoder_arguments(shapes)
    classes = shapes[f"{CLASSIFIER}/weights"][3]
    table = name_classes(classes, path)
    crop = _SMALL_CROP[2] if (backbone.name, table.data) == _SMALL_CROP[:2] else CROPS.get(table.data)
    arguments = {"output_stride": _OUTPUT_STRIDE, **backbone.arguments, **head, **decoder}
    arguments["pooling_crop"] = crop if head["image_pooling"] else None
    if graph is not None:
        arguments |= _graph_arguments(graph, scope, arguments)
    family = "deeplab_v3_plus" if decoder else "deeplab_v3"
    resize: dict[str, Any] = {"grid": _OUTPUT_STRIDE} if crop is None else {"resize": "pad", "size": crop}
    mean, std = normalization(shapes, scope)
    return scope, Card(
        model=f"{family}.{backbone.name}",
        arguments=arguments,
        classes=table.classes,
        colors=table.colors,
        preprocessing=Preprocessing(**resize, mean=mean, std=std),
        align_corners=True,
        source=_describe_source(path, arguments, graph),
    )


def find_backbone(path: Path, shapes: Shapes) -> str:
    """Find the scope of the backbone among variables.

    Raises: `AtrousError` for an unknown one.
    """
    scopes = {name.partition("/")[0] for name in shapes}
    known = [scope for scope in BACKBONES if scope in scopes]
    if len(known) != 1:
        shown = ", ".join(sorted(scopes)[:_SHOWN]) or "none at all"
        raise AtrousError(
            f"{path}: the variables are of no known network: {shown}. Expected TensorFlow DeepLab on one of the "
            f"backbones {', '.join(BACKBONES)}."
        )
    return known[0]


def normalization(shapes: Shapes, scope: str) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """Tell mean and standard deviation of the images in training: [-1, 1], or ImageNet's mean for plain stems."""
    plain = _has_plain_stem(shapes, scope)
    return (_IMAGENET_MEAN, (1.0, 1.0, 1.0)) if plain else ((127.5, 127.5, 127.5), (127.5, 127.5, 127.5))


def _has_plain_stem(shapes: Shapes, scope: str) -> bool:
    return f"{scope}/conv1/weights" in shapes


def _refuse_head(path: Path, shapes: Shapes) -> NoReturn:
    if any(re.search(r"(^|/)[Ll]ogits/", name) for name in shapes if not name.startswith(CLASSIFIER)):
        raise AtrousError(
            f"{path}: this is an image classifier, without the head of DeepLab ({CLASSIFIER}, aspp0). It "
            "starts a training, as backbone_weights=FILE; here give a checkpoint of a segmentation network."
        )
    raise AtrousError(
        f"{path}: the head is not that of DeepLab v3 or v3+ with ASPP: the variables aspp0/weights and "
        f"{CLASSIFIER}/weights are not both there. Dense prediction cells and other heads cannot be imported."
    )


class _Backbone:
    """Our backbone for the variables of a scope: its name and the arguments of the network that concern it."""

    def __init__(self, path: Path, shapes: Shapes, scope: str) -> None:
        self.name = BACKBONES[scope]
        self.arguments: dict[str, Any] = {"multi_grid": None}
        if scope == "MobilenetV2":
            self._describe_mobilenet(path, shapes, scope)
        elif scope.startswith("resnet"):
            options = {"padding": "tensorflow"} | ({"stem": "plain"} if _has_plain_stem(shapes, scope) else {})
            self.arguments = {"multi_grid": (1, 1, 1), "backbone_options": options}

    def _describe_mobilenet(self, path: Path, shapes: Shapes, scope: str) -> None:
        units = [f"{scope}/expanded_conv" + (f"_{index}" if index else "") for index in range(UNITS)]
        kernels = [f"{scope}/Conv/weights", *(f"{unit}/project/weights" for unit in units)]
        channels = [(shapes.get(name) or (0,))[-1] for name in kernels]
        width, divisor = check_width(path, channels)
        options: dict[str, Any] = {"padding": "tensorflow"}
        if (width, divisor) == (0.5, 1):
            self.name = "mobilenet_v2_x0.5"
        else:
            options |= {} if divisor == 8 else {"divisor": divisor}
            self.arguments |= {"width": width} if width != 1 else {}
        taps = (shapes.get(f"decoder/feature_projection0{ending}/weights", ()) for ending in ("_1", ""))
        tap = next(filter(None, taps), ())  # that of the last decoder, at stride 4
        if len(tap) == 4 and tap[2] != channels[3]:  # else the output of the block, as we take it by default
            options["maps_from"] = "depthwise"
        self.arguments["backbone_options"] = options


def _head_arguments(path: Path, shapes: Shapes) -> dict[str, Any]:
    """Read the arguments of ASPP."""
    separable = "aspp1_depthwise/depthwise_weights" in shapes
    rates = sum(
        re.fullmatch(r"aspp[1-9]\d*(_depthwise/depthwise_weights|/weights)", name) is not None for name in shapes
    )
    if rates not in RATES:
        raise AtrousError(
            f"{path}: ASPP has {rates} atrous branches; expected none or 3, those of the release. Other rates are not "
            "stored in the file, so it cannot be imported."
        )
    return {
        "atrous_rates": RATES[rates],
        "channels": shapes["aspp0/weights"][3],
        "image_pooling": "image_pooling/weights" in shapes,
        "separable": separable,
    }


def _decoder_arguments(shapes: Shapes) -> dict[str, Any]:
    """Read the arguments of the decoder; empty if there is none."""
    tap = shapes.get("decoder/feature_projection0/weights", ())
    if len(tap) != 4:
        return {}
    separable = "decoder/decoder_conv0_pointwise/weights" in shapes
    first = "decoder/decoder_conv0_pointwise" if separable else "decoder/decoder_conv0/decoder_conv0_1"
    return {
        "decoder_separable": separable,
        "low_level_channels": tap[3],
        "decoder_channels": (shapes.get(f"{first}/weights") or (256,))[-1],
        "conv3_tap": "decoder/feature_projection0_1/weights" in shapes,
    }


def _graph_arguments(graph: FrozenGraph, scope: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Read from the nodes of a graph what a checkpoint does not contain.

    Raises: `AtrousError` for an output stride or rates that no such network has.
    """
    stride = graph.output_stride()
    if stride not in (8, 16, 32):
        raise AtrousError(f"{graph.path}: the graph has output stride {stride}; expected 8, 16 or 32.")
    ending = "_depthwise" if arguments["separable"] else ""
    rates = [graph.dilation(f"aspp{index + 1}{ending}") for index in range(len(arguments["atrous_rates"]))]
    if any(rate * stride % NOMINAL_OUTPUT_STRIDE for rate in rates):
        raise AtrousError(
            f"{graph.path}: ASPP has the rates {', '.join(map(str, rates))} at output stride {stride}, which are no "
            f"integers at {NOMINAL_OUTPUT_STRIDE}. The graph cannot be imported."
        )
    window = graph.pooling_window()
    return {
        "output_stride": stride,
        "pooling_crop": tuple((side - 1) * stride + 1 for side in window) if window else None,
        "atrous_rates": tuple(rate * stride // NOMINAL_OUTPUT_STRIDE for rate in rates),
        "multi_grid": _graph_multi_grid(graph, scope, stride),
    }


def _graph_multi_grid(graph: FrozenGraph, scope: str, output_stride: int) -> tuple[int, ...] | None:
    """Read the multi-grid: the dilations of the last stage, in units of the stage's own."""
    if scope == "MobilenetV2":
        return None
    units = (
        [f"{scope}/block4/unit_{unit}/bottleneck_v1/conv2" for unit in (1, 2, 3)]
        if scope.startswith("resnet")
        else [f"{scope}/exit_flow/block2/unit_1/xception_module/separable_conv{unit}_depthwise" for unit in (1, 2, 3)]
    )
    return tuple(max(graph.dilation(unit) * output_stride // _NATIVE_STRIDE, 1) for unit in units)


def _describe_source(path: Path, arguments: Mapping[str, Any], graph: FrozenGraph | None) -> str:
    """Say in words which variant was found, and what was assumed."""
    parts = ["separable ASPP" if arguments["separable"] else "plain ASPP"]
    if not arguments["atrous_rates"]:
        parts = ["ASPP without atrous branches"]
    parts.append("image pooling" if arguments["image_pooling"] else "no image pooling")
    if "decoder_separable" in arguments:
        parts.append(f"{'separable' if arguments['decoder_separable'] else 'plain'} decoder")
    else:
        parts.append("no decoder")
    variant = f"TensorFlow DeepLab, {path.name}: {', '.join(parts)}"
    if graph is not None:
        return variant
    rates = f", rates {', '.join(map(str, arguments['atrous_rates']))}" if arguments["atrous_rates"] else ""
    grid = f", multi-grid {', '.join(map(str, arguments['multi_grid']))}" if arguments["multi_grid"] else ""
    return f"{variant}; not in the file, by default: output stride {arguments['output_stride']}{rates}{grid}"
