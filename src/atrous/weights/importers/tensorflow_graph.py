"""Read the constants of TensorFlow's frozen graphs (`frozen_inference_graph.pb`), and the geometry of their nodes.

Freezing replaces the variables of a checkpoint by constants of the same names. Beyond what a checkpoint holds, the
nodes tell the output stride, the window of the image pooling and the dilations.

Source: TensorFlow's `graph.proto`, `node_def.proto`, `attr_value.proto` and `tensor.proto`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from atrous.errors import AtrousError
from atrous.weights.importers.protobuf import Field, ProtobufError, fields, floats, integers
from atrous.weights.importers.tensorflow_bundle import read_shape
from atrous.weights.tensors import damaged_file_error

VARIABLES = ("weights", "depthwise_weights", "biases", "gamma", "beta", "moving_mean", "moving_variance")
"""The last parts of the names of TF-slim's variables; other constants of a graph are not weights."""

_FLOAT = 1
_ATTRIBUTES = ("value", "strides", "ksize", "dilations")
_MOST_NODES, _MOST_INPUTS, _MOST_NUMBERS = 100_000, 2, 8
"""What is kept of a graph: no file makes the reader hold more objects than such networks need."""


@dataclass
class Node:
    """A node: its operation, inputs by name, and attributes as unparsed messages (`AttrValue`)."""

    operation: str = ""
    inputs: list[str] = field(default_factory=list)
    attributes: dict[str, memoryview] = field(default_factory=dict)

    def numbers(self, name: str) -> tuple[int, ...]:
        """Read an attribute that is a list of integers; empty if there is none."""
        lists = (part.data for part in fields(self.attributes.get(name, b"")) if part.number == 1)
        numbers = (n for each in lists for part in fields(each) if part.number == 3 for n in integers(part))
        return tuple(islice(numbers, _MOST_NUMBERS))


class FrozenGraph:
    """The nodes and constants of a frozen graph.

    Raises: `AtrousError` for a file that is not a graph, or a damaged one.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            content = path.read_bytes()
        except OSError as error:
            raise AtrousError(f"{path}: cannot read this file: {error.strerror or error}.") from error
        try:
            parts = (part for part in fields(content) if part.number == 1)
            self.nodes = dict(_read_node(part) for part in islice(parts, _MOST_NODES))
            self._constants = {
                name: _read_constant(node)
                for name, node in self.nodes.items()
                if node.operation == "Const" and name.rpartition("/")[2] in VARIABLES
            }
        except ProtobufError as error:
            raise damaged_file_error(path, f"not a TensorFlow graph: {error}") from error
        for name, (kind, shape, values) in self._constants.items():
            if kind == _FLOAT and (not values or len(values) != 4 * math.prod(shape)):
                raise damaged_file_error(path, f"{name} has {len(values)} bytes for the shape {shape}")

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shapes of the constants that are weights, by name."""
        return {name: shape for name, (_, shape, _) in self._constants.items()}

    def in_file_order(self, names: set[str]) -> list[str]:
        """Sort names; a graph is in memory as a whole, so any order is as fast."""
        return sorted(names)

    def read(self, name: str) -> NDArray[np.floating]:
        """Read the values of a constant.

        Raises: `AtrousError` for values that are not 32-bit floats.
        """
        kind, shape, values = self._constants[name]
        if kind != _FLOAT:
            raise AtrousError(f"{self.path}: the constant {name} has the type {kind}; expected 32-bit floats.")
        return np.frombuffer(values, "<f4").reshape(shape)

    def output_stride(self) -> int:
        """Multiply the strides of all convolutions and max poolings, without those of parallel shortcuts."""
        stride = 1
        for name, node in self.nodes.items():
            if node.operation in ("Conv2D", "DepthwiseConv2dNative", "MaxPool") and "/shortcut" not in name:
                stride *= max(self._read(node, "strides"), default=1)
        return stride

    def pooling_window(self) -> tuple[int, int] | None:
        """Read the window of the average pooling in pixels of its map; None for global pooling."""
        pools = [self._read(node, "ksize") for node in self.nodes.values() if node.operation == "AvgPool"]
        return (pools[0][1], pools[0][2]) if len(pools) == 1 and len(pools[0]) == 4 else None

    def dilation(self, scope: str) -> int:
        """Read the dilation of the convolution in a scope: an attribute, or the block that is moved to the batch."""
        nodes = [node for name, node in self.nodes.items() if name.startswith(f"{scope}/")]
        return max((rate for node in nodes for rate in (*self._read(node, "dilations"), *self._block(node))), default=1)

    def _block(self, node: Node) -> tuple[int, ...]:
        """Read the size of the blocks that a node moves to the batch; empty for other nodes."""
        block = self.nodes.get(node.inputs[1]) if node.operation == "SpaceToBatchND" and len(node.inputs) > 1 else None
        if block is None or block.operation != "Const":
            return ()
        try:
            return _integers(_read_constant(block)[2])
        except ProtobufError as error:
            raise damaged_file_error(self.path, str(error)) from error

    def _read(self, node: Node, name: str) -> tuple[int, ...]:
        try:
            return node.numbers(name)
        except ProtobufError as error:
            raise damaged_file_error(self.path, str(error)) from error


def _read_node(part: Field) -> tuple[str, Node]:
    name, node = "", Node()
    for each in fields(part.data):
        if each.number == 1:
            name = each.text
        elif each.number == 2:
            node.operation = each.text
        elif each.number == 3 and len(node.inputs) < _MOST_INPUTS:
            node.inputs.append(each.text)
        elif each.number == 5:
            entry = {pair.number: pair for pair in fields(each.data)}
            if entry.keys() >= {1, 2} and entry[1].text in _ATTRIBUTES:
                node.attributes[entry[1].text] = entry[2].data
    return name, node


Constant = tuple[int, tuple[int, ...], memoryview]
"""A constant: its type (TensorFlow's number), shape and little-endian bytes."""


def _read_constant(node: Node) -> Constant:
    """Parse the `TensorProto` of a constant."""
    kind, content = 0, memoryview(b"")
    shape: tuple[int, ...] = ()
    repeated: list[Field] = []
    for attribute in fields(node.attributes.get("value", b"")):
        if attribute.number != 8:
            continue
        for part in fields(attribute.data):
            if part.number == 1:
                kind = part.integer
            elif part.number == 2:
                shape = read_shape(part.data)
            elif part.number == 4:
                content = part.data
            elif part.number in (5, 7):  # float_val, int_val
                repeated.append(part)
    if not content and repeated:
        content = _listed_values(kind, repeated)
    return kind, shape, content


def _listed_values(kind: int, repeated: list[Field]) -> memoryview:
    if kind == _FLOAT:
        return memoryview(floats(repeated).tobytes())
    return memoryview(np.array([n for each in repeated for n in integers(each)], "<i8").astype("<i4").tobytes())


def _integers(content: memoryview) -> tuple[int, ...]:
    size = min(len(content) // 4, _MOST_NUMBERS)
    return tuple(np.frombuffer(content[: 4 * size], "<i4").tolist())
