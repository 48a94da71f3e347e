"""Read TensorFlow Lite files as a list of operators with dequantized constants, without TensorFlow.

Source: the schema of TensorFlow Lite (`schema.fbs`), through the flatbuffers classes of the `tflite` package.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tflite
from numpy.typing import NDArray

from atrous.errors import AtrousError
from atrous.weights.tensors import damaged_file_error

_NUMPY_TYPES = {
    tflite.TensorType.FLOAT32: np.float32,
    tflite.TensorType.FLOAT16: np.float16,
    tflite.TensorType.INT32: np.int32,
    tflite.TensorType.INT64: np.int64,
    tflite.TensorType.UINT8: np.uint8,
    tflite.TensorType.INT8: np.int8,
}
NO_TENSOR = -1
"""The index that stands for an optional input which an operator does not have."""

_WINDOW = ("Padding", "StrideH", "StrideW", "FusedActivationFunction")
_DILATION = ("DilationHFactor", "DilationWFactor")
_OPTIONS = {
    "CONV_2D": (tflite.Conv2DOptions, (*_WINDOW, *_DILATION)),
    "DEPTHWISE_CONV_2D": (tflite.DepthwiseConv2DOptions, (*_WINDOW, *_DILATION, "DepthMultiplier")),
    "AVERAGE_POOL_2D": (tflite.Pool2DOptions, (*_WINDOW, "FilterHeight", "FilterWidth")),
    "RESIZE_BILINEAR": (tflite.ResizeBilinearOptions, ("AlignCorners", "HalfPixelCenters")),
    "ADD": (tflite.AddOptions, ("FusedActivationFunction",)),
    "CONCATENATION": (tflite.ConcatenationOptions, ("FusedActivationFunction", "Axis")),
}
_ACTIVATIONS = {0: "none", 1: "relu", 3: "relu6"}


@dataclass(frozen=True)
class Operator:
    """One operator: its name, its constant and variable inputs and outputs by index, and its options."""

    index: int
    name: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    options: dict[str, int]
    """The options by their names in the schema, for the supported kinds of operators."""

    @property
    def activation(self) -> str:
        """The fused activation: "none", "relu", "relu6", or the number of another one."""
        code = self.options["FusedActivationFunction"]
        return _ACTIVATIONS.get(code, str(code))

    def __str__(self) -> str:
        return f"operator {self.index} ({self.name})"


@dataclass(frozen=True)
class _Tensor:
    shape: tuple[int, ...]
    kind: int
    data: NDArray[np.uint8]
    scale: NDArray[np.float32]
    zero: NDArray[np.int64]
    axis: int


class Graph:
    """The graph of a TensorFlow Lite file with a single subgraph.

    Raises: `AtrousError` for a file that is truncated or not a TensorFlow Lite file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        data = path.read_bytes()
        if data[4:8] != b"TFL3":
            raise damaged_file_error(path, "it does not begin as a TensorFlow Lite file")
        try:
            model = tflite.Model.GetRootAsModel(data, 0)
            subgraphs = model.SubgraphsLength()
            graph = model.Subgraphs(0)
            self.operators = [_operator(model, graph, index) for index in range(graph.OperatorsLength())]
            (self.input,), (self.output,) = (
                tuple(map(int, side())) for side in (graph.InputsAsNumpy, graph.OutputsAsNumpy)
            )
            self._tensors = [_tensor(model, graph.Tensors(index)) for index in range(graph.TensorsLength())]
        except _UNREADABLE as error:
            raise damaged_file_error(path, "its tables cannot be read") from error
        if subgraphs != 1:
            raise AtrousError(f"{path}: this file has {subgraphs} subgraphs; expected one. It cannot be imported.")
        used = {t for operator in self.operators for t in (*operator.inputs, *operator.outputs)} | {
            self.input,
            self.output,
        }
        if max(used) >= len(self._tensors) or min(used) < NO_TENSOR:
            raise damaged_file_error(path, "an operator uses a tensor that does not exist")
        if any(not operator.outputs for operator in self.operators):
            raise damaged_file_error(path, "an operator has no output")

    def consumers(self, tensor: int) -> list[Operator]:
        """List the operators that read a tensor, in order of execution."""
        return [operator for operator in self.operators if tensor in operator.inputs]

    def shape(self, tensor: int) -> tuple[int, ...]:
        """Return the shape of a tensor."""
        return self._info(tensor).shape

    def quantization(self, tensor: int) -> tuple[float, int] | None:
        """Return scale and zero point of a tensor of 8 bits that has one pair of them; None for others.

        The zero point is that of values from 0 to 255, which signed ones are moved to.
        """
        info = self._info(tensor)
        offset = {tflite.TensorType.UINT8: 0, tflite.TensorType.INT8: 128}.get(info.kind)
        if len(info.scale) != 1 or offset is None:
            return None
        scale, zero = float(info.scale[0]), int(info.zero[0])
        if not (math.isfinite(scale) and scale > 0):
            raise damaged_file_error(self.path, f"tensor {tensor} has the scale {scale}")
        return scale, zero + offset

    def _info(self, tensor: int) -> _Tensor:
        if tensor == NO_TENSOR:  # Python would take the last one
            raise damaged_file_error(self.path, "an operator uses a tensor that does not exist")
        return self._tensors[tensor]

    def constant(self, tensor: int) -> NDArray[np.float32]:
        """Read a constant and dequantize it.

        Raises: `AtrousError` if the tensor is not a constant, or the number of its bytes does not fit its shape.
        """
        info = self._info(tensor)
        if info.kind not in _NUMPY_TYPES:
            raise AtrousError(
                f"{self.path}: tensor {tensor} has the unsupported type {info.kind}. The file cannot be imported."
            )
        kind = np.dtype(_NUMPY_TYPES[info.kind])
        if min(info.shape, default=1) < 1 or info.data.size != math.prod(info.shape) * kind.itemsize:
            raise damaged_file_error(self.path, f"the values of tensor {tensor} are incomplete")
        values = np.frombuffer(info.data.tobytes(), kind).reshape(info.shape)
        if not len(info.scale) or kind.kind == "f":
            return values.astype(np.float32)
        along = [1] * values.ndim
        if len(info.scale) > 1:  # per channel
            if info.axis not in range(values.ndim) or not values.shape[info.axis] == len(info.scale) == len(info.zero):
                raise damaged_file_error(self.path, f"the scales of tensor {tensor} do not fit its shape")
            along[info.axis] = len(info.scale)
        real = (values.astype(np.int64) - info.zero.reshape(along)) * info.scale.reshape(along)
        return real.astype(np.float32)


_UNREADABLE = (struct.error, IndexError, ValueError, TypeError, AttributeError, OverflowError, MemoryError)
"""The exceptions that the generated readers raise on invalid tables."""


def _tensor(model: tflite.Model, table: tflite.Tensor) -> _Tensor:
    shape = tuple(int(size) for size in table.ShapeAsNumpy()) if table.ShapeLength() else ()
    buffer = model.Buffers(table.Buffer())
    data = np.asarray(buffer.DataAsNumpy(), np.uint8) if buffer.DataLength() else np.zeros(0, np.uint8)
    scale, zero, axis = np.zeros(0, np.float32), np.zeros(0, np.int64), 0
    parameters = table.Quantization()
    if parameters is not None and parameters.ScaleLength():
        scale = parameters.ScaleAsNumpy()
        zero = parameters.ZeroPointAsNumpy() if parameters.ZeroPointLength() else np.zeros(len(scale), np.int64)
        axis = int(parameters.QuantizedDimension())
    return _Tensor(shape, table.Type(), data, scale, zero, axis)


def _operator(model: tflite.Model, graph: tflite.SubGraph, index: int) -> Operator:
    table = graph.Operators(index)
    code = model.OperatorCodes(table.OpcodeIndex())
    builtin = max(code.BuiltinCode(), code.DeprecatedBuiltinCode())  # the newer field, and the older of one byte
    name = tflite.utils.BUILTIN_OPCODE2NAME.get(builtin, f"operator code {builtin}")
    options = {}
    if name in _OPTIONS:
        kind, keys = _OPTIONS[name]
        options_table, reader = table.BuiltinOptions(), kind()
        reader.Init(options_table.Bytes, options_table.Pos)
        options = {key: int(getattr(reader, key)()) for key in keys}
    inputs, outputs = (tuple(int(t) for t in side) for side in (table.InputsAsNumpy(), table.OutputsAsNumpy()))
    return Operator(index, name, inputs, outputs, options)
