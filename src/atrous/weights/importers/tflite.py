"""TensorFlow Lite graphs of DeepLab v3 on MobileNetV2, of floats or quantised to 8 bits.

Nothing is taken on trust: channels, strides, dilations, paddings, residual connections, the head and its pooling window
are read from the graph and compared with the network they lead to; an operator that does not belong is an error.

The batch normalisation has been folded into the convolutions of such files. Ours become identities (scale 1, mean 0)
that hold the bias, so that the network can be fine-tuned, best with them frozen.

Source: TensorFlow Lite's schema; the network is MobileNetV2 section 6.3.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

import numpy as np
import torch
from torch import Tensor

from atrous.backbones.mobilenet_v2 import InvertedResidual, MobileNetV2
from atrous.data import voc
from atrous.data.labels import bit_colours
from atrous.errors import AtrousError
from atrous.models import SegmentationModel
from atrous.models.deeplab_v3 import DeepLabV3
from atrous.weights.card import Card, Preprocessing
from atrous.weights.fill import fill
from atrous.weights.importers.tflite_graph import Graph, Operator

VOC_CROP = 513
"""Side of the crop that the networks for VOC were trained on."""


def read(path: Path) -> tuple[SegmentationModel, Card]:
    """The network of a TensorFlow Lite file, quantised weights as the floats they stand for.

    Raises: `AtrousError` for a damaged file, or a graph that is not of this kind, naming the operator.
    """
    reader = _Reader(Graph(path))
    trunk = reader.trunk()
    head = reader.head()
    card = _card(reader.graph, trunk, head)
    with torch.device("meta"):
        model = card.build()
    assert isinstance(model, DeepLabV3)
    tensors = _tensors(model, trunk, head)
    fill(model, tensors, str(path))
    _check_geometry(path, model, trunk)
    return model, card


@dataclass
class _Conv:
    """A convolution of the graph, its weights in torch's order."""

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
class _Unit:
    """An inverted residual: its convolutions, two without an expansion, else three, and whether it adds its input."""

    convs: list[_Conv]
    residual: bool


@dataclass
class _Trunk:
    stem: _Conv
    units: list[_Unit] = field(default_factory=list)

    @property
    def output_stride(self) -> int:
        strides = [self.stem.stride, *(conv.stride for unit in self.units for conv in unit.convs)]
        return int(np.prod(strides))


@dataclass
class _Head:
    branch: _Conv
    pooling: _Conv
    window: tuple[int, int]
    pooling_first: bool
    project: _Conv
    classifier: _Conv
    align_corners: bool


class _Reader:
    """Follows the graph from its input, operator by operator."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.tensor = graph.input
        shape = graph.shape(graph.input)
        if len(shape) != 4 or shape[0] != 1 or shape[3] != 3:
            raise AtrousError(f"{graph.path}: the input is {shape}; one RGB image, (1, height, width, 3), is expected.")

    def trunk(self) -> _Trunk:
        """Stem and inverted residuals, up to where the head divides."""
        self._skip("QUANTIZE")
        trunk = _Trunk(self._conv(kernel=3, activation="relu6"))
        while len(self.graph.consumers(self.tensor)) == 1 or self._residual_follows():
            trunk.units.append(self._unit())
        return trunk

    def head(self) -> _Head:
        """Image pooling and the 1x1 branch, joined, projected, classified and resized."""
        features = self.tensor
        consumers = {operator.name: operator for operator in self.graph.consumers(features)}
        for name, operator in consumers.items():
            if name not in ("AVERAGE_POOL_2D", "CONV_2D"):
                self._unknown(operator)
        if len(consumers) != 2 or len(self.graph.consumers(features)) != 2:
            raise AtrousError(f"{self.graph.path}: the head is not one 1x1 branch and image pooling.")
        branch = self._conv(start=consumers["CONV_2D"], activation="relu")
        self._skip("QUANTIZE")
        branch_end = self.tensor
        pool = consumers["AVERAGE_POOL_2D"]
        window = pool.options["FilterHeight"], pool.options["FilterWidth"]
        self.tensor = pool.outputs[0]
        pooling = self._conv(activation="relu")
        self._resize()
        self._skip("QUANTIZE")
        pooling_end = self.tensor
        join = self._next("CONCATENATION")
        if set(join.inputs) != {branch_end, pooling_end}:
            self._unknown(join)
        self.tensor = join.outputs[0]
        project = self._conv(activation="relu")
        classifier = self._conv(activation="none")
        align_corners = self._resize()
        if self.tensor != self.graph.output:
            align_corners = self._resize() if self._peek("RESIZE_BILINEAR") else align_corners
            self._skip("ARG_MAX")
        if self.tensor != self.graph.output:
            self._unknown(self.graph.consumers(self.tensor)[0])
        pooling_first = join.inputs[0] == pooling_end
        return _Head(branch, pooling, window, pooling_first, project, classifier, align_corners)

    def _unit(self) -> _Unit:
        before = self.tensor
        convs = [] if self._peek("DEPTHWISE_CONV_2D") else [self._conv(activation="relu6")]
        convs.append(self._conv(name="DEPTHWISE_CONV_2D", kernel=3, activation="relu6"))
        convs.append(self._conv(activation="none"))
        adds = [operator for operator in self.graph.consumers(self.tensor) if operator.name == "ADD"]
        residual = bool(adds) and set(adds[0].inputs) == {before, self.tensor}
        if residual:
            self._expect(adds[0], adds[0].activation == "none")
            self.tensor = adds[0].outputs[0]
        return _Unit(convs, residual)

    def _residual_follows(self) -> bool:
        return any(operator.name == "ADD" for operator in self.graph.consumers(self.tensor))

    def _conv(self, *, activation: str, name: str = "CONV_2D", kernel: int = 1, start: Operator | None = None) -> _Conv:
        operator = start or self._next(name)
        options = operator.options
        self._expect(operator, len(operator.inputs) == 3 and len(operator.outputs) == 1)
        weight = self.graph.constant(operator.inputs[1])
        bias = self.graph.constant(operator.inputs[2])
        depthwise = name == "DEPTHWISE_CONV_2D"
        self._expect(operator, weight.ndim == 4 and weight.shape[1:3] == (kernel, kernel))
        self._expect(operator, operator.activation == activation)
        self._expect(operator, options["StrideH"] == 1 if kernel == 1 else options["Padding"] == 0)  # 0 is "SAME"
        self._expect(operator, options["StrideH"] == options["StrideW"])
        self._expect(operator, options["DilationHFactor"] == options["DilationWFactor"])
        self._expect(operator, not depthwise or options["DepthMultiplier"] == 1)
        self.tensor = operator.outputs[0]
        order = (3, 0, 1, 2) if depthwise else (0, 3, 1, 2)
        return _Conv(operator, torch.from_numpy(weight.transpose(order).copy()), torch.from_numpy(bias.copy()))

    def _resize(self) -> bool:
        operator = self._next("RESIZE_BILINEAR")
        align_corners = bool(operator.options["AlignCorners"])
        half_pixel = bool(operator.options["HalfPixelCenters"])
        self._expect(operator, align_corners != half_pixel)  # without either, it is an old, third grid
        self.tensor = operator.outputs[0]
        return align_corners

    def _skip(self, name: str) -> None:
        if self._peek(name):
            self.tensor = self.graph.consumers(self.tensor)[0].outputs[0]

    def _peek(self, name: str) -> bool:
        consumers = self.graph.consumers(self.tensor)
        return bool(consumers) and consumers[0].name == name

    def _next(self, name: str) -> Operator:
        consumers = self.graph.consumers(self.tensor)
        if not consumers:
            raise AtrousError(f"{self.graph.path}: the graph ends where a {name} is expected.")
        if consumers[0].name != name:
            self._unknown(consumers[0], name)
        return consumers[0]

    def _expect(self, operator: Operator, met: bool) -> None:
        if not met:
            self._unknown(operator)

    def _unknown(self, operator: Operator, expected: str = "") -> NoReturn:
        instead = f", where {expected} is expected" if expected else ""
        raise AtrousError(
            f"{self.graph.path}: {operator} is not as in a DeepLab v3 on MobileNetV2{instead}; only those are read."
        )


def _card(graph: Graph, trunk: _Trunk, head: _Head) -> Card:
    _, height, width, _ = graph.shape(graph.input)
    multiplier, divisor = _multiplier(graph, trunk)
    half = (multiplier, divisor) == (0.5, 1)
    arguments: dict[str, object] = {
        "output_stride": trunk.output_stride,
        "channels": head.branch.weight.shape[0],
        "pooling_crop": tuple((side - 1) * trunk.output_stride + 1 for side in head.window),
        "backbone_options": {"padding": "tensorflow"}
        if half or divisor == 8
        else {"padding": "tensorflow", "divisor": divisor},
    }
    if not half and multiplier != 1:
        arguments["width"] = multiplier
    classes = head.classifier.weight.shape[0]
    of_voc = classes == len(voc.CLASSES)
    return Card(
        model="deeplab_v3.mobilenet_v2_x0.5" if half else "deeplab_v3.mobilenet_v2",
        arguments=arguments,
        classes=voc.CLASSES if of_voc else tuple(f"class {index}" for index in range(classes)),
        colours=bit_colours(classes),
        preprocessing=_preprocessing(graph, height, width),
        align_corners=head.align_corners,
        licence="Apache-2.0",
        source=f"TensorFlow DeepLab, {graph.path.name}",
        trained_on="PASCAL VOC 2012 (trainaug or trainval), COCO and ImageNet" if of_voc else "",
    )


def _preprocessing(graph: Graph, height: int, width: int) -> Preprocessing:
    """Pixels to [-1, 1], by the input's own quantisation where it has one.

    Images are padded to graphs of the training crop's size, and squeezed to smaller ones, as the publishers do.
    """
    quantised = graph.quantisation(graph.input)
    mean, std = (127.5, 127.5) if quantised is None else (quantised[1], 1 / quantised[0])
    padded = min(height, width) >= VOC_CROP
    return Preprocessing(
        resize="pad" if padded else "squeeze",
        size=(height, width),
        mean=(mean,) * 3,
        std=(std,) * 3,
        channel_order="RGB",
    )


def _multiplier(graph: Graph, trunk: _Trunk) -> tuple[float, int]:
    """The width multiplier and the rounding that give the graph's numbers of channels."""
    found = [trunk.stem.weight.shape[0], *(unit.convs[-1].weight.shape[0] for unit in trunk.units)]
    multiplier = found[0] / 32
    for divisor in (8, 1):
        with torch.device("meta"):
            net = MobileNetV2(width=multiplier, divisor=divisor)
        expected = [net.features[0][0].out_channels, *(unit.conv[-1].num_features for unit in net.units()[1:])]  # type: ignore[index, union-attr]
        if found == expected:
            return multiplier, divisor
    raise AtrousError(f"{graph.path}: units of {found[1:]} channels are those of no MobileNetV2.")


def _tensors(model: DeepLabV3, trunk: _Trunk, head: _Head) -> dict[str, Tensor]:
    """The graph's weights under our names."""
    tensors: dict[str, Tensor] = {}

    def put(conv_name: str, norm_name: str, conv: _Conv, eps: float) -> None:
        channels = conv.bias.shape[0]
        tensors[f"{conv_name}.weight"] = conv.weight
        tensors[f"{norm_name}.weight"] = torch.ones(channels)
        tensors[f"{norm_name}.bias"] = conv.bias
        tensors[f"{norm_name}.running_mean"] = torch.zeros(channels)
        tensors[f"{norm_name}.running_var"] = torch.full((channels,), 1 - eps)
        tensors[f"{norm_name}.num_batches_tracked"] = torch.tensor(0)

    features = "backbone.features"
    put(f"{features}.0.0", f"{features}.0.1", trunk.stem, eps=1e-3)
    for index, unit in enumerate(trunk.units, start=1):
        *nested, project = unit.convs
        for position, conv in enumerate(nested):
            put(f"{features}.{index}.conv.{position}.0", f"{features}.{index}.conv.{position}.1", conv, eps=1e-3)
        last = len(nested)
        put(f"{features}.{index}.conv.{last}", f"{features}.{index}.conv.{last + 1}", project, eps=1e-3)
    if head.pooling_first:  # ours comes last
        channels = head.branch.weight.shape[0]
        pooled, direct = head.project.weight.split([head.project.weight.shape[1] - channels, channels], dim=1)
        head.project.weight = torch.cat([direct, pooled], 1)
    put("aspp.branches.0.0", "aspp.branches.0.1", head.branch, eps=1e-5)
    put("aspp.pooling.conv.0", "aspp.pooling.conv.1", head.pooling, eps=1e-5)
    put("aspp.project.0", "aspp.project.1", head.project, eps=1e-5)
    tensors["classifier.weight"] = head.classifier.weight
    tensors["classifier.bias"] = head.classifier.bias
    return tensors


def _check_geometry(path: Path, model: DeepLabV3, trunk: _Trunk) -> None:
    """Strides, dilations and residual connections as the graph has them."""
    assert isinstance(model.backbone, MobileNetV2)
    for ours, unit in zip(model.backbone.units()[1:], trunk.units, strict=True):
        assert isinstance(ours, InvertedResidual)
        depthwise = unit.convs[-2]
        conv = ours.conv[-3][0]  # type: ignore[index]
        expected = (conv.stride[0], conv.dilation[0], ours.residual)
        if (depthwise.stride, depthwise.dilation, unit.residual) != expected:
            raise AtrousError(
                f"{path}: {depthwise.operator} has stride {depthwise.stride}, dilation {depthwise.dilation} and "
                f"{'a' if unit.residual else 'no'} residual connection; expected {expected[0]}, {expected[1]} and "
                f"{'one' if expected[2] else 'none'} at output stride {trunk.output_stride}."
            )
