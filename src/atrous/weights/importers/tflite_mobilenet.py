"""Import MobileNetV2 from TensorFlow Lite graphs, in floats or 8 bits: DeepLab's backbone, or a classifier.

Channels, strides, dilations, paddings and residual connections are read from the graph and compared with our network;
an unexpected operator is an error.

In such files batch normalization is folded into the convolutions. Our normalization layers become identities (scale 1,
mean 0) that hold the bias; training gives them statistics again, see `layers.norm.unfold_batch_norm`.

Source: TensorFlow Lite's schema; MobileNetV2 table 2.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import numpy as np
import torch
from torch import Tensor

from atrous.backbones.mobilenet_v2 import BOTTLENECKS, InvertedResidual, MobileNetV2, find_width
from atrous.card import Preprocessing
from atrous.errors import AtrousError
from atrous.weights.importers.tflite_graph import Graph, Operator

UNITS = sum(repeats for _, _, repeats, _ in BOTTLENECKS)
EPS = 1e-3
"""The epsilon of MobileNetV2's batch normalization."""


@dataclass
class Conv:
    """A convolution of the graph, with its weights in torch's order."""

    operator: Operator
    weight: Tensor
    bias: Tensor

    @property
    def stride(self) -> int:
        return self.operator.options["StrideH"]

    @property
    def dilation(self) -> int:
        return self.operator.options["DilationHFactor"]


@dataclass
class Unit:
    """An inverted residual: two convolutions, or three with an expansion, and whether it adds its input."""

    convs: list[Conv]
    residual: bool


@dataclass
class BackboneConvs:
    """The convolutions of the backbone in the graph: stem and inverted residuals."""

    stem: Conv
    units: list[Unit]

    @property
    def output_stride(self) -> int:
        strides = [self.stem.stride, *(conv.stride for unit in self.units for conv in unit.convs)]
        return int(np.prod(strides))


class GraphReader:
    """Follows a graph from its input, operator by operator; `kind` names the expected network in error messages."""

    def __init__(self, graph: Graph, kind: str) -> None:
        self.graph = graph
        self.kind = kind
        self.tensor = graph.input
        shape = graph.shape(graph.input)
        if len(shape) != 4 or shape[0] != 1 or shape[3] != 3 or min(shape) < 1:
            raise AtrousError(
                f"{graph.path}: the input has shape {shape}; expected (1, height, width, 3), one RGB image."
            )

    def read_backbone(self) -> BackboneConvs:
        """Read the stem and the inverted residuals, up to the head."""
        self.skip("QUANTIZE")
        stem = self.conv(kernel=3, activation="relu6")
        return BackboneConvs(stem, [self._unit() for _ in range(UNITS)])

    def _unit(self) -> Unit:
        before = self.tensor
        convs = [] if self.peek("DEPTHWISE_CONV_2D") else [self.conv(activation="relu6")]
        convs.append(self.conv(name="DEPTHWISE_CONV_2D", kernel=3, activation="relu6"))
        convs.append(self.conv(activation="none"))
        adds = [operator for operator in self.graph.consumers(self.tensor) if operator.name == "ADD"]
        residual = bool(adds) and set(adds[0].inputs) == {before, self.tensor}
        if residual:
            self.expect(adds[0], adds[0].activation == "none")
            self.tensor = adds[0].outputs[0]
        return Unit(convs, residual)

    def conv(self, *, activation: str, name: str = "CONV_2D", kernel: int = 1, start: Operator | None = None) -> Conv:
        """Read the next convolution, or `start`, and check its name, kernel size and activation."""
        operator = start or self.next(name)
        options = operator.options
        self.expect(operator, len(operator.inputs) == 3 and len(operator.outputs) == 1)
        weight = self.graph.constant(operator.inputs[1])
        bias = self.graph.constant(operator.inputs[2])
        depthwise = name == "DEPTHWISE_CONV_2D"
        self.expect(operator, weight.ndim == 4 and weight.shape[1:3] == (kernel, kernel))
        self.expect(operator, operator.activation == activation)
        self.expect(operator, options["StrideH"] == 1 if kernel == 1 else options["Padding"] == 0)  # 0 is "SAME"
        self.expect(operator, options["StrideH"] == options["StrideW"])
        self.expect(operator, options["DilationHFactor"] == options["DilationWFactor"])
        self.expect(operator, not depthwise or options["DepthMultiplier"] == 1)
        self.tensor = operator.outputs[0]
        order = (3, 0, 1, 2) if depthwise else (0, 3, 1, 2)
        return Conv(operator, torch.from_numpy(weight.transpose(order).copy()), torch.from_numpy(bias.copy()))

    def resize(self) -> bool:
        """Read the next operator, a bilinear resize, and return whether it aligns the corners."""
        operator = self.next("RESIZE_BILINEAR")
        align_corners = bool(operator.options["AlignCorners"])
        half_pixel = bool(operator.options["HalfPixelCenters"])
        self.expect(operator, align_corners != half_pixel)  # with neither, TensorFlow samples a third, older grid
        self.tensor = operator.outputs[0]
        return align_corners

    def skip(self, name: str) -> None:
        """Skip the next operator if it has this name."""
        if self.peek(name):
            self.tensor = self.graph.consumers(self.tensor)[0].outputs[0]

    def peek(self, name: str) -> bool:
        """Check whether the next operator has this name."""
        consumers = self.graph.consumers(self.tensor)
        return bool(consumers) and consumers[0].name == name

    def next(self, name: str) -> Operator:
        """Return the next operator, which must have this name."""
        consumers = self.graph.consumers(self.tensor)
        if not consumers:
            raise AtrousError(f"{self.graph.path}: the graph ends early; expected {name}, as in {self.kind}.")
        if consumers[0].name != name:
            self.unknown(consumers[0], name)
        return consumers[0]

    def expect(self, operator: Operator, condition: bool) -> None:
        """Raise an error about an operator unless a condition is met."""
        if not condition:
            self.unknown(operator)

    def unknown(self, operator: Operator | None, expected: str = "") -> NoReturn:
        """Raise an error about an operator that this network does not have there, or about the end of the graph."""
        instead = f"; expected {expected}" if expected else ""
        place = operator or "the end of the graph"
        raise AtrousError(
            f"{self.graph.path}: {place} is not as in {self.kind}{instead}. Other networks cannot be imported."
        )


def graph_preprocessing(graph: Graph, padded_from: int | None = None) -> Preprocessing:
    """Derive the preprocessing: pixels to [-1, 1], or by the quantization of the input; resized to the input size.

    For graphs of at least `padded_from` pixels images are padded instead of resized.
    """
    _, height, width, _ = graph.shape(graph.input)
    quantized = graph.quantization(graph.input)
    mean, std = (127.5, 127.5) if quantized is None else (quantized[1], 1 / quantized[0])
    padded = padded_from is not None and min(height, width) >= padded_from
    return Preprocessing(resize="pad" if padded else "squeeze", size=(height, width), mean=(mean,) * 3, std=(std,) * 3)


def width_multiplier(graph: Graph, backbone_convs: BackboneConvs) -> tuple[float, int]:
    """Find the width multiplier and the channel divisor that give the graph's numbers of channels."""
    channels = [backbone_convs.stem.weight.shape[0], *(unit.convs[-1].weight.shape[0] for unit in backbone_convs.units)]
    return check_width(graph.path, channels)


def check_width(path: Path, channels: Sequence[int]) -> tuple[float, int]:
    """Find the width multiplier and the channel divisor that give the numbers of channels of the stem and the units.

    Raises: `AtrousError` if no width multiplier gives them.
    """
    if (multiplier := find_width(channels)) is None:
        raise AtrousError(
            f"{path}: the units have {list(channels[1:])} channels, which no width multiplier of MobileNetV2 gives. "
            "Other networks cannot be imported."
        )
    return multiplier


def unfold_norm(conv_name: str, norm_name: str, conv: Conv, eps: float) -> dict[str, Tensor]:
    """Map a convolution with folded normalization to a convolution and an identity normalization that adds the bias."""
    channels = conv.bias.shape[0]
    return {
        f"{conv_name}.weight": conv.weight,
        f"{norm_name}.weight": torch.ones(channels),
        f"{norm_name}.bias": conv.bias,
        f"{norm_name}.running_mean": torch.zeros(channels),
        f"{norm_name}.running_var": torch.full((channels,), 1 - eps),
        f"{norm_name}.num_batches_tracked": torch.tensor(0),
    }


def backbone_tensors(backbone_convs: BackboneConvs, prefix: str = "") -> dict[str, Tensor]:
    """Map the weights of the backbone to the keys of `MobileNetV2`."""
    features = f"{prefix}features"
    tensors = unfold_norm(f"{features}.0.0", f"{features}.0.1", backbone_convs.stem, EPS)
    for index, unit in enumerate(backbone_convs.units, start=1):
        *nested, project = unit.convs
        name = f"{features}.{index}.conv"
        for position, conv in enumerate(nested):
            tensors |= unfold_norm(f"{name}.{position}.0", f"{name}.{position}.1", conv, EPS)
        tensors |= unfold_norm(f"{name}.{len(nested)}", f"{name}.{len(nested) + 1}", project, EPS)
    return tensors


def classifier_tensors(reader: GraphReader) -> dict[str, Tensor]:
    """Read the layers of an ImageNet classifier after `read_backbone`, by the keys of `MobileNetV2`.

    Raises: `AtrousError` for other layers, naming the first operator that differs.
    """
    last = reader.conv(activation="relu6")
    reader.tensor = reader.next("MEAN").outputs[0]
    scores = reader.conv(activation="none")
    for name in ("RESHAPE", "SOFTMAX", "QUANTIZE"):
        reader.skip(name)
    if reader.tensor != reader.graph.output:
        reader.unknown(reader.graph.consumers(reader.tensor)[0])
    tensors = unfold_norm("features.18.0", "features.18.1", last, EPS)
    return tensors | {"classifier.1.weight": scores.weight.flatten(1), "classifier.1.bias": scores.bias}


def check_geometry(path: Path, backbone: MobileNetV2, backbone_convs: BackboneConvs) -> None:
    """Check that the backbone has the strides, dilations and residual connections of the graph."""
    for ours, unit in zip(backbone.blocks()[1:], backbone_convs.units, strict=True):
        assert isinstance(ours, InvertedResidual)
        depthwise = unit.convs[-2]
        conv = ours.conv[-3][0]  # type: ignore[index]
        expected = (conv.stride[0], conv.dilation[0], ours.residual)
        if (depthwise.stride, depthwise.dilation, unit.residual) != expected:
            raise AtrousError(
                f"{path}: {depthwise.operator} has stride {depthwise.stride}, dilation {depthwise.dilation} and "
                f"{'a' if unit.residual else 'no'} residual connection; expected {expected[0]}, {expected[1]} and "
                f"{'one' if expected[2] else 'none'} at output stride {backbone_convs.output_stride}."
            )
