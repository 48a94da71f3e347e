"""Import TensorFlow DeepLab: checkpoints of the V2 format, the model zoo's archives, and frozen graphs.

DeepLab v3 and v3+ on MobileNetV2, Xception and ResNet-v1. The variant (ASPP and decoder with separable or plain
convolutions, image pooling, number of decoders, channels, classes) follows from the names and shapes of the variables.
A frozen graph also tells the output stride, the rates and the pooling window; for a checkpoint they are those of the
release: stride 16, rates 6, 12, 18, no multi-grid.

Differences between the two networks, which the import accounts for:

- TensorFlow concatenates the image pooling before the other branches of ASPP, we after them: the input channels of the
  projection are reordered.
- The epsilon of batch normalization is 1e-3 in MobileNetV2 and Xception, and 1e-5 in ResNet, ASPP and decoder, as in
  our networks.
- Padding: MobileNetV2's convolutions and ResNet's max pooling pad even sizes at the end
  (`backbone_options={"padding": "tensorflow"}`); the other strided convolutions pad symmetrically.
- The low-level features of the decoder are taken before the sum in ResNet (`block1/unit_2/.../conv3`), before the
  strided convolution in Xception, and after the depthwise convolution in MobileNetV2 (`layer_4/depthwise_output`).
- Kernels are stored as height, width, input, output.

Source: TensorFlow's research/deeplab.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from atrous.backbones import Backbone
from atrous.backbones.resnet import ResNet
from atrous.card import Card
from atrous.errors import AtrousError
from atrous.layers.meta import meta_device
from atrous.models import SegmentationModel, build_from_card
from atrous.models.deeplab_v3 import DeepLabV3
from atrous.weights.importers.tensorflow_bundle import Bundle
from atrous.weights.importers.tensorflow_files import open_variables
from atrous.weights.importers.tensorflow_graph import FrozenGraph
from atrous.weights.importers.tensorflow_names import NORM, Layer, backbone_layers, network_layers
from atrous.weights.importers.tensorflow_variant import (
    CLASSIFIER,
    Shape,
    describe_network,
    find_backbone,
    normalization,
)
from atrous.weights.tensors import check_shapes, load_tensors

_TRAINING = ("global_step", "learning_rate", "beta1_power", "beta2_power")
_SLOTS = ("/Momentum", "/Adam", "/Adam_1", "/RMSProp", "/RMSProp_1", "/ExponentialMovingAverage")
"""Variables of the optimizer, which are ignored."""

_PLAIN, _DEPTHWISE = (3, 2, 0, 1), (2, 3, 0, 1)
"""The axes of a kernel in our order, counted in TensorFlow's: height, width, input, output (or multiplier)."""

Sources: TypeAlias = dict[str, tuple[str, tuple[int, ...]]]
"""For each key of our network its variable, and the order of the variable's axes here."""

_CLASSIFIER_SOURCES: Sources = {
    "classifier.weight": (f"{CLASSIFIER}/weights", _PLAIN),
    "classifier.bias": (f"{CLASSIFIER}/biases", (0,)),
}


def read(path: Path) -> tuple[SegmentationModel, Card]:
    """Read the network of a TensorFlow checkpoint (any of its files, or its prefix), archive or frozen graph.

    Raises: `AtrousError` for a damaged or incomplete file, one of the old V1 format, or another network, with the
    variables that are missing, unexpected or of another shape.
    """
    with ExitStack() as resources:
        variables = open_variables(path, resources)
        shapes = {name: shape for name, shape in variables.shapes.items() if not _is_of_training(name)}
        scope, card = describe_network(path, shapes, variables if isinstance(variables, FrozenGraph) else None)
        with meta_device():
            model = build_from_card(card)
        assert isinstance(model, DeepLabV3)
        sources = _list_sources(network_layers(model, scope)) | _CLASSIFIER_SOURCES
        check_shapes(shapes, _expected_shapes(model, sources), model, str(path))  # before any values are read
        tensors = _read_tensors(variables, sources)
    if model.aspp.pooling is not None:
        tensors["aspp.project.0.weight"] = _pooling_last(tensors["aspp.project.0.weight"])
    load_tensors(model, tensors, str(path))
    return model, card


def read_backbone(path: Path, backbone: Backbone) -> dict[str, Tensor]:
    """Read the tensors of a backbone, by its keys: of an ImageNet classifier, or a segmentation network.

    Raises: `AtrousError` as `read`, and for a backbone whose strides are not where TensorFlow's network has them.
    """
    if isinstance(backbone, ResNet) and backbone.stride_at != "last":
        raise AtrousError(
            f"{path}: TensorFlow's ResNets have the stride in the last unit of a stage, {backbone.name} in the first: "
            "the weights would load, and compute different features. Use resnet50_beta or resnet101_beta."
        )
    with ExitStack() as resources:
        variables = open_variables(path, resources)
        scope = find_backbone(path, variables.shapes)
        shapes = {name: shape for name, shape in variables.shapes.items() if _is_of_backbone(name, scope)}
        sources = _list_sources(backbone_layers(backbone, scope))
        check_shapes(shapes, _expected_shapes(backbone, sources), backbone, str(path))
        return _read_tensors(variables, sources)


def read_normalization(path: Path) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """Read which mean and standard deviation a backbone was trained with, in units of the 8-bit pixel.

    Raises: `AtrousError` for a damaged file, or an unknown backbone.
    """
    with ExitStack() as resources:
        shapes = open_variables(path, resources).shapes
        return normalization(shapes, find_backbone(path, shapes))


def _is_of_backbone(name: str, scope: str) -> bool:
    classifier = tuple(f"{scope}/{part}/" for part in ("logits", "Logits", "Conv_1"))
    return name.startswith(f"{scope}/") and not name.startswith(classifier) and not _is_of_training(name)


def _is_of_training(name: str) -> bool:
    return name in _TRAINING or name.endswith(_SLOTS)


def _list_sources(layers: Iterable[Layer]) -> Sources:
    """List the sources of the tensors of some layers."""
    sources: Sources = {}
    for layer in layers:
        kernel = "depthwise_weights" if layer.depthwise else "weights"
        sources[f"{layer.conv}.weight"] = f"{layer.scope}/{kernel}", _DEPTHWISE if layer.depthwise else _PLAIN
        for ours, theirs in NORM.items():
            sources[f"{layer.norm}.{ours}"] = f"{layer.scope}/BatchNorm/{theirs}", (0,)
    return sources


def _expected_shapes(model: nn.Module, sources: Sources) -> dict[str, Shape]:
    """List the variables that a network needs, with their shapes."""
    state = model.state_dict()
    return {
        name: tuple(state[key].shape[order.index(axis)] for axis in range(len(order)))
        for key, (name, order) in sources.items()
    }


def _read_tensors(variables: Bundle | FrozenGraph, sources: Sources) -> dict[str, Tensor]:
    """Read all variables as tensors by our keys."""
    keys = {name: (key, order) for key, (name, order) in sources.items()}
    tensors = {}
    for name in variables.in_file_order(set(keys)):
        key, order = keys[name]
        tensors[key] = _to_tensor(variables.read(name), order)
        if key.endswith(".running_mean"):
            tensors[key.replace("running_mean", "num_batches_tracked")] = torch.tensor(0)
    return tensors


def _to_tensor(values: NDArray[np.floating], order: tuple[int, ...]) -> Tensor:
    return torch.from_numpy(np.array(values.transpose(order), np.float32, order="C"))


def _pooling_last(weight: Tensor) -> Tensor:
    """Move the input channels of the image pooling from the beginning to the end."""
    channels = weight.shape[0]  # every branch has as many as the projection
    return torch.cat([weight[:, channels:], weight[:, :channels]], 1)
