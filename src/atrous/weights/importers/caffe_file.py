"""Read Caffe's binary network files (`.caffemodel`) as layers with names, geometry and arrays, without Caffe.

Both generations of layers are read: `layers` with an enumerated type (V1, until 2014) and `layer` with a type by name.

Source: `src/caffe/proto/caffe.proto` of BVLC/caffe; the fields of its forks from the same file in
TheLegendAli/DeepLab-Context (`hole`), hszhao/PSPNet (`bn_param`) and alexgkendall/caffe-segnet.
"""

from __future__ import annotations

import math
import mmap
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from atrous.errors import AtrousError
from atrous.weights.importers.protobuf import ProtobufError, fields, floats, integers
from atrous.weights.tensors import damaged_file_error

LAYERS_V1, LAYERS = 2, 100
"""Fields of a network: its layers, of the first and of the second generation."""

_MOST_LAYERS = 5_000
_MOST_FIELDS = 200
_MOST_AXES = 32
"""Limits far above those of any network, for damaged files."""


@dataclass(frozen=True)
class _Generation:
    """The field numbers of a layer; `type_name` is 0 where the type is a number."""

    name: int
    type_name: int
    blobs: int
    convolution: int
    pooling: int
    epsilons: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    """For types of normalization, the message that holds the epsilon, and its field in that message."""


_GENERATIONS = {
    LAYERS_V1: _Generation(name=4, type_name=0, blobs=6, convolution=10, pooling=19),
    LAYERS: _Generation(
        name=1, type_name=2, blobs=7, convolution=106, pooling=121, epsilons={"BatchNorm": (139, 3), "BN": (152, 4)}
    ),
}


@dataclass(frozen=True)
class Layer:
    """One layer: its name, its type (empty in V1), its arrays, and its geometry as far as the file states it."""

    name: str
    type: str = ""
    blobs: tuple[NDArray[np.float32], ...] = ()
    geometry: dict[str, int] = field(default_factory=dict)
    """`kernel_size`, `stride` and `dilation` of a convolution or pooling."""
    eps: float | None = None
    """The epsilon of a normalization; None where the file does not state it."""


def read_layers(path: Path) -> list[Layer]:
    """Read the layers of a `.caffemodel`; the arrays are views of the mapped file.

    Raises: `AtrousError` for a file that is truncated, damaged or of another format.
    """
    try:
        with path.open("rb") as file:
            content = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY))
    except (OSError, ValueError) as error:  # ValueError: an empty file
        raise AtrousError(f"{path}: cannot read this file: {error}.") from error
    try:
        return [
            _read_layer(entry.data, _GENERATIONS[entry.number])
            for entry in fields(content, limit=_MOST_LAYERS)
            if entry.number in _GENERATIONS
        ]
    except ProtobufError as error:
        raise damaged_file_error(path, str(error)) from error


def _read_layer(content: memoryview, numbers: _Generation) -> Layer:
    name = kind = ""
    blobs: list[NDArray[np.float32]] = []
    geometry: dict[str, int] = {}
    eps: float | None = None
    for entry in fields(content, limit=_MOST_FIELDS):
        if entry.number == numbers.name:
            name = entry.text
        elif entry.number == numbers.type_name:
            kind = entry.text
        elif entry.number == numbers.blobs:
            blobs.append(_read_blob(entry.data))
        elif entry.number == numbers.convolution:
            geometry |= _read_geometry(entry.data, {4: "kernel_size", 6: "stride", 17: "hole", 18: "dilation"})
        elif entry.number == numbers.pooling:
            geometry |= _read_geometry(entry.data, {2: "kernel_size", 3: "stride"})
        elif kind in numbers.epsilons and entry.number == numbers.epsilons[kind][0]:
            eps = _read_float(entry.data, numbers.epsilons[kind][1])
    return Layer(name, kind, tuple(blobs), geometry, eps)


def _read_blob(content: memoryview) -> NDArray[np.float32]:
    """Read an array: its data as single or double precision; its shape, or the four sizes of early versions."""
    entries = list(fields(content, limit=_MOST_FIELDS))
    of = {number: [entry for entry in entries if entry.number == number] for number in (1, 2, 3, 4, 5, 7, 8)}
    data = floats(of[5]) if of[5] else floats(of[8], double=True)
    if of[7]:
        parts = (part for entry in of[7] for part in fields(entry.data, limit=_MOST_FIELDS))
        shape = list(islice((size for part in parts for size in integers(part)), _MOST_AXES + 1))
    elif any(of[number] for number in (1, 2, 3, 4)):
        shape = [of[number][-1].signed if of[number] else 0 for number in (1, 2, 3, 4)]
    else:
        shape = [len(data)]
    if len(shape) > _MOST_AXES or min(shape, default=1) < 0 or math.prod(shape) != len(data):
        raise ProtobufError(f"an array of shape {tuple(shape)} has {len(data)} values")
    with np.errstate(over="ignore"):  # doubles may become infinite, which is reported when they are loaded
        return data.reshape(shape).astype(np.float32, copy=False)


def _read_geometry(content: memoryview, names: dict[int, str]) -> dict[str, int]:
    """Read the first value of each named field; DeepLab's fork of Caffe calls the dilation `hole`."""
    values: dict[str, int] = {}
    for entry in fields(content, limit=_MOST_FIELDS):
        if entry.number in names and (value := next(integers(entry), None)) is not None:
            values.setdefault(names[entry.number], value)
    hole = values.pop("hole", 0)
    if hole > 1:  # Caffe itself has a switch, 0 or 1, under the same number
        values.setdefault("dilation", hole)
    return values


def _read_float(content: memoryview, number: int) -> float | None:
    values = floats(entry for entry in fields(content, limit=_MOST_FIELDS) if entry.number == number)
    return float(values[-1]) if len(values) else None
