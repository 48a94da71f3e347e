"""Build our networks from renamed state dicts: parts that the importers of several libraries share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from atrous.backbones.resnet import BLOCKS
from atrous.card import Card, Preprocessing
from atrous.errors import AtrousError
from atrous.layers.meta import meta_device
from atrous.models import SegmentationModel, build_from_card
from atrous.weights.importers.classes import ClassTable, name_classes, number_classes
from atrous.weights.tensors import load_tensors

CAFFE = Preprocessing(mean=(104.008, 116.669, 122.675), std=(1.0, 1.0, 1.0), channel_order="BGR")
"""The normalization of Caffe's networks: the mean of ImageNet is subtracted, in the order blue, green, red."""

_COUNTERS = "num_batches_tracked"


@dataclass(frozen=True)
class Network:
    """One of our networks, with the arguments by which another library's differs, and what its card says."""

    model: str
    """The id, such as "deeplab_v3.resnet50"."""
    arguments: Mapping[str, Any]
    source: str
    """The library."""
    align_corners: bool = False
    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    known_classes: bool = True
    """Whether classes get the names of the data set that has as many, see `classes`."""


def build_network(network: Network, tensors: Mapping[str, Tensor], path: Path) -> tuple[SegmentationModel, Card]:
    """Build a network, load its tensors, and make its card; the classifier tells the number of classes.

    Counters of batches, which old files lack and inference does not need, are 0 where they are missing.

    Raises: `AtrousError` for tensors that are missing, unknown or of another shape.
    """
    count = count_classes(tensors, path)
    card = _make_card(network, name_classes(count, path) if network.known_classes else number_classes(count, path))
    with meta_device():
        model = build_from_card(card)
    counters = {key: torch.tensor(0) for key in model.state_dict() if key.endswith(_COUNTERS)}
    load_tensors(model, counters | dict(tensors), str(path))
    return model, card


def count_classes(tensors: Mapping[str, Tensor], path: Path) -> int:
    """Read the number of classes from the last convolution of a renamed state dict.

    Raises: `AtrousError` if it has none.
    """
    for key in ("classifier.weight", "classifier.2.weight", "aspp.branches.0.weight"):
        if key in tensors and tensors[key].ndim == 4:
            return tensors[key].shape[0]
    raise AtrousError(f"{path}: the classifier is missing. Save the state dict of the whole network.")


def _make_card(network: Network, table: ClassTable) -> Card:
    return Card(
        model=network.model,
        arguments=dict(network.arguments),
        classes=table.classes,
        colors=table.colors,
        preprocessing=network.preprocessing,
        align_corners=network.align_corners,
        source=network.source,
    )


def find_resnet(state: Mapping[str, Tensor], prefix: str, path: Path) -> str:
    """Name a ResNet by the numbers of units in its stages, `{prefix}layer1` to `{prefix}layer4`.

    Raises: `AtrousError` for ResNets without bottlenecks (18 and 34), and numbers of units that no ResNet of ours has.
    """
    units = tuple(count_units(state, f"{prefix}layer{stage}.") for stage in (1, 2, 3, 4))
    if f"{prefix}layer1.0.conv3.weight" not in state:
        names: dict[tuple[int, ...], str] = {(2, 2, 2, 2): "ResNet-18", (3, 4, 6, 3): "ResNet-34"}
        shallow = names.get(units, "a ResNet without bottlenecks")
        raise AtrousError(f"{path}: the backbone is {shallow}; expected ResNet-50, -101 or -152.")
    depths = [depth for depth, blocks in BLOCKS.items() if blocks == units]
    if not depths:
        counts = ", ".join(map(str, units))
        raise AtrousError(
            f"{path}: the backbone's stages have {counts} units; expected those of ResNet-50, -101, -152."
        )
    return f"resnet{depths[0]}"


def count_units(state: Mapping[str, Tensor], prefix: str) -> int:
    """Count the numbered children below a prefix of keys, such as the units in `backbone.layer3.`."""
    return len({key[len(prefix) :].partition(".")[0] for key in state if key.startswith(prefix)})


def channels_of(state: Mapping[str, Tensor], key: str, path: Path, axis: int = 0) -> int:
    """Read a number of channels from the shape of a convolution's weight.

    Raises: `AtrousError` if the key is missing, or is no convolution.
    """
    if key not in state or state[key].ndim != 4 or not state[key].numel():
        raise AtrousError(f"{path}: '{key}', a convolution of this network, is missing. Save the whole state dict.")
    return state[key].shape[axis]


def first_inputs_last(tensors: dict[str, Tensor], key: str, channels: int) -> None:
    """Move the first input channels of a convolution to the end, in place.

    Some libraries concatenate the same maps in another order.
    """
    if key in tensors and tensors[key].ndim == 4:
        tensors[key] = tensors[key].roll(-channels, dims=1)
