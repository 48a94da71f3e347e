"""TensorFlow Lite graphs of DeepLab v3 on MobileNetV2, of floats or quantized to 8 bits.

The head, its pooling window and its resizes are read from the graph as the trunk is, see `tflite_mobilenet`.

Source: TensorFlow Lite's schema; the network is MobileNetV2 section 6.3.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from atrous.backbones.mobilenet_v2 import MobileNetV2
from atrous.card import Card
from atrous.data.datasets import voc
from atrous.imaging.labels import voc_color_map
from atrous.models import SegmentationModel, build_from_card
from atrous.weights.importers.tflite_graph import Graph
from atrous.weights.importers.tflite_mobilenet import (
    Conv,
    Reader,
    Trunk,
    check_geometry,
    folded,
    multiplier,
    preprocessing,
    trunk_tensors,
)
from atrous.weights.tensors import load_tensors

VOC_CROP = 513
"""Side of the crop that the networks for VOC were trained on; images are padded to graphs of this size."""

EPS_OF_HEAD = 1e-5
"""Of the batch normalization in our ASPP."""


def read(path: Path) -> tuple[SegmentationModel, Card]:
    """The network of a TensorFlow Lite file, quantized weights as the floats they stand for.

    Raises: `AtrousError` for a damaged file, or a graph that is not of this kind, naming the operator.
    """
    reader = Reader(Graph(path), "a DeepLab v3 on MobileNetV2")
    trunk = reader.trunk()
    head = _head(reader)
    card = _card(reader.graph, trunk, head)
    with torch.device("meta"):
        model = build_from_card(card)
    load_tensors(model, _tensors(trunk, head), str(path))
    assert isinstance(model.backbone, MobileNetV2)
    check_geometry(path, model.backbone, trunk)
    return model, card


@dataclass
class Head:
    branch: Conv
    pooling: Conv
    window: tuple[int, int]
    pooling_first: bool
    project: Conv
    classifier: Conv
    align_corners: bool


def _head(reader: Reader) -> Head:
    """Image pooling and the 1x1 branch, joined, projected, classified and resized."""
    features = reader.tensor
    following = reader.graph.consumers(features)
    consumers = {operator.name: operator for operator in following}
    if len(following) != 2 or consumers.keys() != {"AVERAGE_POOL_2D", "CONV_2D"}:
        reader.unknown(following[0], "one 1x1 branch and image pooling")
    branch = reader.conv(start=consumers["CONV_2D"], activation="relu")
    reader.skip("QUANTIZE")
    branch_end = reader.tensor
    pool = consumers["AVERAGE_POOL_2D"]
    window = pool.options["FilterHeight"], pool.options["FilterWidth"]
    reader.tensor = pool.outputs[0]
    pooling = reader.conv(activation="relu")
    reader.resize()
    reader.skip("QUANTIZE")
    pooling_end = reader.tensor
    join = reader.next("CONCATENATION")
    if set(join.inputs) != {branch_end, pooling_end}:
        reader.unknown(join)
    reader.tensor = join.outputs[0]
    project = reader.conv(activation="relu")
    classifier = reader.conv(activation="none")
    align_corners = reader.resize()
    if reader.tensor != reader.graph.output:
        align_corners = reader.resize() if reader.peek("RESIZE_BILINEAR") else align_corners
        reader.skip("ARG_MAX")
    if reader.tensor != reader.graph.output:
        reader.unknown(reader.graph.consumers(reader.tensor)[0])
    pooling_first = join.inputs[0] == pooling_end
    return Head(branch, pooling, window, pooling_first, project, classifier, align_corners)


def _card(graph: Graph, trunk: Trunk, head: Head) -> Card:
    width, divisor = multiplier(graph, trunk)
    half = (width, divisor) == (0.5, 1)
    options = {"padding": "tensorflow"} | ({} if half or divisor == 8 else {"divisor": divisor})
    arguments: dict[str, object] = {
        "output_stride": trunk.output_stride,
        "channels": head.branch.weight.shape[0],
        "pooling_crop": tuple((side - 1) * trunk.output_stride + 1 for side in head.window),
        "backbone_options": options,
    }
    if not half and width != 1:
        arguments["width"] = width
    classes = head.classifier.weight.shape[0]
    of_voc = classes == len(voc.CLASSES)
    return Card(
        model="deeplab_v3.mobilenet_v2_x0.5" if half else "deeplab_v3.mobilenet_v2",
        arguments=arguments,
        classes=voc.CLASSES if of_voc else tuple(f"class {index}" for index in range(classes)),
        colors=voc_color_map(classes),
        preprocessing=preprocessing(graph, padded_from=VOC_CROP),
        align_corners=head.align_corners,
        license="Apache-2.0",
        source=f"TensorFlow DeepLab, {graph.path.name}",
        trained_on="PASCAL VOC 2012 (trainaug or trainval), COCO and ImageNet" if of_voc else "",
    )


def _tensors(trunk: Trunk, head: Head) -> dict[str, Tensor]:
    """The graph's weights under our names."""
    project = head.project
    if head.pooling_first:  # ours comes last
        channels = head.branch.weight.shape[0]
        pooled, direct = project.weight.split([project.weight.shape[1] - channels, channels], dim=1)
        project = replace(project, weight=torch.cat([direct, pooled], 1))
    tensors = trunk_tensors(trunk, prefix="backbone.")
    tensors |= folded("aspp.branches.0.0", "aspp.branches.0.1", head.branch, EPS_OF_HEAD)
    tensors |= folded("aspp.pooling.conv.0", "aspp.pooling.conv.1", head.pooling, EPS_OF_HEAD)
    tensors |= folded("aspp.project.0", "aspp.project.1", project, EPS_OF_HEAD)
    return tensors | {"classifier.weight": head.classifier.weight, "classifier.bias": head.classifier.bias}
