"""Import TensorFlow Lite graphs of DeepLab v3 on MobileNetV2, in floats or quantized to 8 bits.

The head, its pooling window and its resizes are read from the graph, like the backbone; see `tflite_mobilenet`.

Source: TensorFlow Lite's schema; the network is MobileNetV2 section 6.3.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from atrous.backbones import Backbone
from atrous.backbones.mobilenet_v2 import MobileNetV2
from atrous.card import Card
from atrous.errors import AtrousError
from atrous.layers.meta import meta_device
from atrous.models import SegmentationModel, build_from_card
from atrous.weights.importers.classes import name_classes
from atrous.weights.importers.tflite_graph import Graph
from atrous.weights.importers.tflite_mobilenet import (
    BackboneConvs,
    Conv,
    GraphReader,
    backbone_tensors,
    check_geometry,
    classifier_tensors,
    graph_preprocessing,
    unfold_norm,
    width_multiplier,
)
from atrous.weights.tensors import load_tensors

VOC_CROP = 513
"""The crop size that the networks for VOC were trained with; graphs of this size take padded images."""

HEAD_EPS = 1e-5
"""The epsilon of batch normalization in our ASPP."""


def read(path: Path) -> tuple[SegmentationModel, Card]:
    """Read the network of a TensorFlow Lite file; quantized weights become the floats they represent.

    Raises: `AtrousError` for a damaged file, or a graph of another network, naming the first operator that differs.
    """
    reader = GraphReader(Graph(path), "a DeepLab v3 on MobileNetV2")
    convs = reader.read_backbone()
    head = _read_head(reader)
    card = _make_card(reader.graph, convs, head)
    with meta_device():
        model = build_from_card(card)
    load_tensors(model, _tensors(convs, head), str(path))
    assert isinstance(model.backbone, MobileNetV2)
    check_geometry(path, model.backbone, convs)
    return model, card


def read_backbone(path: Path, backbone: Backbone) -> dict[str, Tensor]:
    """Read the tensors of a MobileNetV2, by its keys: of an ImageNet classifier, or of a segmentation network.

    Those of a classifier include its last layers.

    Raises: `AtrousError` for a damaged file, a graph of another network, or another backbone.
    """
    if not isinstance(backbone, MobileNetV2):
        raise AtrousError(f"{path}: a TensorFlow Lite graph holds the weights of mobilenet_v2, not of {backbone.name}.")
    reader = _backbone_reader(path)
    convs = reader.read_backbone()
    is_classifier = len(reader.graph.consumers(reader.tensor)) == 1  # ASPP has branches
    return backbone_tensors(convs) | (classifier_tensors(reader) if is_classifier else {})


def read_normalization(path: Path) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """Read which mean and standard deviation a graph was trained with, in units of the 8-bit pixel.

    Raises: `AtrousError` for a damaged file.
    """
    preprocessing = graph_preprocessing(_backbone_reader(path).graph)
    return preprocessing.mean, preprocessing.std


def _backbone_reader(path: Path) -> GraphReader:
    return GraphReader(Graph(path), "a network on MobileNetV2")


@dataclass
class Head:
    """The convolutions and resizes of the graph after the backbone."""

    branch: Conv
    pooling: Conv
    window: tuple[int, int]
    pooling_first: bool
    project: Conv
    classifier: Conv
    align_corners: bool


def _read_head(reader: GraphReader) -> Head:
    """Read the head: image pooling and the 1x1 branch, concatenated, projected, classified and resized."""
    features = reader.tensor
    following = reader.graph.consumers(features)
    consumers = {operator.name: operator for operator in following}
    if len(following) != 2 or consumers.keys() != {"AVERAGE_POOL_2D", "CONV_2D"}:
        reader.unknown(following[0] if following else None, "one 1x1 branch and image pooling")
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
        reader.unknown(next(iter(reader.graph.consumers(reader.tensor)), None))
    pooling_first = join.inputs[0] == pooling_end
    return Head(branch, pooling, window, pooling_first, project, classifier, align_corners)


def _make_card(graph: Graph, convs: BackboneConvs, head: Head) -> Card:
    width, divisor = width_multiplier(graph, convs)
    half = (width, divisor) == (0.5, 1)
    options = {"padding": "tensorflow"} | ({} if half or divisor == 8 else {"divisor": divisor})
    arguments: dict[str, object] = {
        "output_stride": convs.output_stride,
        "channels": head.branch.weight.shape[0],
        "pooling_crop": tuple((side - 1) * convs.output_stride + 1 for side in head.window),
        "backbone_options": options,
    }
    if not half and width != 1:
        arguments["width"] = width
    table = name_classes(head.classifier.weight.shape[0], graph.path)
    return Card(
        model="deeplab_v3.mobilenet_v2_x0.5" if half else "deeplab_v3.mobilenet_v2",
        arguments=arguments,
        classes=table.classes,
        colors=table.colors,
        preprocessing=graph_preprocessing(graph, padded_from=VOC_CROP),
        align_corners=head.align_corners,
        license="Apache-2.0",
        source=f"TensorFlow DeepLab, {graph.path.name}",
        trained_on="PASCAL VOC 2012 (trainaug or trainval), COCO and ImageNet" if table.data == "VOC" else "",
    )


def _tensors(convs: BackboneConvs, head: Head) -> dict[str, Tensor]:
    """Map the graph's weights to the keys of our network."""
    project = head.project
    if head.pooling_first:  # in our network the pooling branch comes last
        channels = head.branch.weight.shape[0]
        pooled, direct = project.weight.split([project.weight.shape[1] - channels, channels], dim=1)
        project = replace(project, weight=torch.cat([direct, pooled], 1))
    tensors = backbone_tensors(convs, prefix="backbone.")
    tensors |= unfold_norm("aspp.branches.0.0", "aspp.branches.0.1", head.branch, HEAD_EPS)
    tensors |= unfold_norm("aspp.pooling.conv.0", "aspp.pooling.conv.1", head.pooling, HEAD_EPS)
    tensors |= unfold_norm("aspp.project.0", "aspp.project.1", project, HEAD_EPS)
    return tensors | {"classifier.weight": head.classifier.weight, "classifier.bias": head.classifier.bias}
