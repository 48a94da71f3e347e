"""TensorFlow Lite files as a list of operators with dequantised constants, without TensorFlow.

Source: the schema of TensorFlow Lite (`schema.fbs`), through the flatbuffers classes of the `tflite` package.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tflite
from numpy.typing import NDArray

from atrous.errors import AtrousError
from atrous.weights.fill import damaged

_NUMPY_TYPES = {
    tflite.TensorType.FLOAT32: np.float32,
    tflite.TensorType.FLOAT16: np.float16,
    tflite.TensorType.INT32: np.int32,
    tflite.TensorType.INT64: np.int64,
    tflite.TensorType.UINT8: np.uint8,
    tflite.TensorType.INT8: np.int8,
}
_OPTIONS = {
    "CONV_2D": tflite.Conv2DOptions,
    "DEPTHWISE_CONV_2D": tflite.DepthwiseConv2DOptions,
    "AVERAGE_POOL_2D": tflite.Pool2DOptions,
    "RESIZE_BILINEAR": tflite.ResizeBilinearOptions,
    "ADD": tflite.AddOptions,
    "CONCATENATION": tflite.ConcatenationOptions,
}
_ACTIVATIONS = {0: "none", 1: "relu", 3: "relu6"}


@dataclass(frozen=True)
class Operator:
    """One operator: its name, its constant and variable inputs and outputs by index, and its options."""

    index: int
    name: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    options: Any

    @property
    def activation(self) -> str:
        """The activation fused into it: "none", "relu", "relu6" or a number that has no name here."""
        code = self.options.FusedActivationFunction()
        return _ACTIVATIONS.get(code, str(code))

    def __str__(self) -> str:
        return f"operator {self.index} ({self.name})"


class Graph:
    """The one subgraph of a file.

    Raises: `AtrousError` for a file that is truncated or no TensorFlow Lite file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        data = path.read_bytes()
        if data[4:8] != b"TFL3":
            raise damaged(path, "it does not begin as a TensorFlow Lite file")
        try:
            self._model = tflite.Model.GetRootAsModel(data, 0)
            if self._model.SubgraphsLength() != 1:
                raise AtrousError(f"{path}: {self._model.SubgraphsLength()} subgraphs; only one is understood.")
            self._graph = self._model.Subgraphs(0)
            self.operators = [self._operator(index) for index in range(self._graph.OperatorsLength())]
            (self.input,), (self.output,) = self._graph.InputsAsNumpy(), self._graph.OutputsAsNumpy()
            self._shapes = [self._shape(index) for index in range(self._graph.TensorsLength())]
        except (struct.error, IndexError, ValueError, TypeError, AttributeError, OverflowError, MemoryError) as error:
            if isinstance(error, AtrousError):
                raise
            raise damaged(path, f"{type(error).__name__} while reading its tables") from error

    def consumers(self, tensor: int) -> list[Operator]:
        """The operators that read a tensor, in order of execution."""
        return [operator for operator in self.operators if tensor in operator.inputs]

    def shape(self, tensor: int) -> tuple[int, ...]:
        return self._shapes[tensor]

    def quantisation(self, tensor: int) -> tuple[NDArray[np.float32], NDArray[np.int64], int] | None:
        """Scales, zero points and the axis they run along; None for a tensor of floats."""
        parameters = self._graph.Tensors(tensor).Quantization()
        if parameters is None or parameters.ScaleLength() == 0:
            return None
        scale = parameters.ScaleAsNumpy()
        zero = parameters.ZeroPointAsNumpy() if parameters.ZeroPointLength() else np.zeros(len(scale), np.int64)
        return scale, zero, parameters.QuantizedDimension()

    def constant(self, tensor: int) -> NDArray[np.float32]:
        """A constant, as the real numbers it stands for.

        Raises: `AtrousError` where the tensor is no constant, or its bytes are not as many as its shape tells.
        """
        found = self._graph.Tensors(tensor)
        if found.Type() not in _NUMPY_TYPES:
            raise AtrousError(f"{self.path}: tensor {tensor} has the unknown type {found.Type()}.")
        try:
            raw = self._model.Buffers(found.Buffer()).DataAsNumpy()
            values = np.frombuffer(np.asarray(raw, np.uint8).tobytes(), _NUMPY_TYPES[found.Type()]).reshape(
                self.shape(tensor)
            )
        except (struct.error, IndexError, ValueError, TypeError, AttributeError) as error:
            raise damaged(self.path, f"the values of tensor {tensor} are not all there") from error
        quantised = self.quantisation(tensor)
        if quantised is None or values.dtype.kind == "f":
            return values.astype(np.float32)
        scale, zero, axis = quantised
        if len(scale) > 1:  # per channel
            along = [1] * values.ndim
            along[axis] = len(scale)
            scale, zero = scale.reshape(along), zero.reshape(along)
        return ((values.astype(np.int64) - zero) * scale).astype(np.float32)

    def _shape(self, tensor: int) -> tuple[int, ...]:
        found = self._graph.Tensors(tensor)
        return tuple(int(size) for size in found.ShapeAsNumpy()) if found.ShapeLength() else ()

    def _operator(self, index: int) -> Operator:
        found = self._graph.Operators(index)
        code = self._model.OperatorCodes(found.OpcodeIndex())
        builtin = max(code.BuiltinCode(), code.DeprecatedBuiltinCode())  # the newer field, and the older of one byte
        name = tflite.utils.BUILTIN_OPCODE2NAME.get(builtin, f"operator code {builtin}")
        options = None
        if name in _OPTIONS:
            table = found.BuiltinOptions()
            options = _OPTIONS[name]()
            options.Init(table.Bytes, table.Pos)
        inputs, outputs = (tuple(int(t) for t in side) for side in (found.InputsAsNumpy(), found.OutputsAsNumpy()))
        return Operator(index, name, inputs, outputs, options)
