"""Import Caffe's networks (`.caffemodel`): FCN, CRF-RNN, DeepLab v1 and v2, dilated networks, SegNet and PSPNet.

The network is recognized by the names and shapes of its layers, and the geometry that the file states is compared with
ours. Images are BGR in 0..255, minus the mean of the released weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from atrous.card import Card, Preprocessing
from atrous.data.datasets import camvid, pascal_context
from atrous.errors import AtrousError
from atrous.layers.meta import meta_device
from atrous.models import SegmentationModel, build_from_card
from atrous.weights.importers import caffe_resnet, caffe_vgg
from atrous.weights.importers.caffe_file import Layer, read_layers
from atrous.weights.importers.caffe_layers import Layers, Network, convert, list_names, show
from atrous.weights.importers.classes import ClassTable, name_classes
from atrous.weights.tensors import load_tensors

RECOGNIZERS = (
    caffe_resnet.pspnet,
    caffe_resnet.deeplab_v2,
    caffe_vgg.fcn,
    caffe_vgg.segnet,
    caffe_vgg.deeplab_v2,
    caffe_vgg.dilated,
    caffe_vgg.deeplab_v1,
)
"""The functions that recognize a network, in the order in which they are tried."""

DILATED_CLASSES = (
    "building", "tree", "sky", "car", "sign", "road", "pedestrian", "fence", "pole", "pavement", "bicyclist",
)  # fmt: skip
"""The order of CamVid's classes in dilated networks, which is that of KITTI as well."""


def read(path: Path) -> tuple[SegmentationModel, Card]:
    """Read the network of a `.caffemodel` file.

    Raises: `AtrousError` for a damaged file, an unknown network, and layers that are missing, unexpected, of another
    shape or of another geometry.
    """
    layers = _by_name(path, read_layers(path))
    weighted = {name: layer for name, layer in layers.items() if layer.blobs}
    try:
        network = _recognize(layers, weighted)
    except AtrousError as error:
        raise AtrousError(f"{path}: {error}") from error
    card = _make_card(path, network)
    with meta_device():
        model = build_from_card(card)
    once = {name: layer for name, layer in weighted.items() if not name.endswith(caffe_resnet.SCALES)}
    load_tensors(model, convert(path, once, network.rules, model), str(path))
    return model, card


def _recognize(layers: Layers, weighted: Layers) -> Network:
    network = next(filter(None, (recognize(layers) for recognize in RECOGNIZERS)), None)
    if network is None:
        raise AtrousError(
            f"the layers are those of no known network: {list_names(weighted) or 'none'}. Expected FCN, CRF-RNN, "
            "DeepLab v1 or v2, a dilated network, SegNet or PSPNet, with the names of their released prototxts."
        )
    return network


def _by_name(path: Path, layers: Sequence[Layer]) -> Layers:
    """Index the layers by their names, which only layers without parameters may share."""
    named: dict[str, Layer] = {}
    for layer in layers:
        if layer.name not in named or not named[layer.name].blobs:
            named[layer.name] = layer
        elif layer.blobs:
            raise AtrousError(
                f"{path}: two layers with parameters are named {show(layer.name)}. Save the network again."
            )
    return named


def _make_card(path: Path, network: Network) -> Card:
    table = _name_classes(path, network)
    preprocessing = {"channel_order": "BGR", "mean": network.mean, "std": (1.0, 1.0, 1.0), **network.preprocessing}
    return Card(
        model=network.model,
        arguments=network.arguments,
        classes=table.classes,
        colors=table.colors,
        preprocessing=Preprocessing(**preprocessing),
        align_corners=network.model.startswith(("deeplab", "pspnet")),
        source=f"Caffe, {path.name}",
    )


def _name_classes(path: Path, network: Network) -> ClassTable:
    """Name the classes; the 11 of CamVid are in another order in dilated networks than in SegNet."""
    if network.num_classes == len(camvid.CLASSES):
        classes = DILATED_CLASSES if network.model.startswith("dilat") else camvid.CLASSES
        colors = dict(zip(camvid.CLASSES, camvid.COLORS, strict=True))
        return ClassTable(classes, tuple(colors[name] for name in classes), "CamVid")
    if network.num_classes == len(pascal_context.CLASSES):
        return ClassTable(pascal_context.CLASSES, pascal_context.COLORS, "PASCAL-Context")
    return name_classes(network.num_classes, path)
