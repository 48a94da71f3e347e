"""Find the stride at every layer of a network by running it without values, and refuse what cannot be dilated.

A network can be dilated exactly if pixels meet in convolutions and poolings alone, for these know their strides and
dilations. So every operation that a network executes is checked: those that treat each pixel by itself may be used
anywhere, convolutions and poolings within their layers, averages of the whole map within the layers that sample it
(`timm_layers`). All others mix pixels in a way that has no dilation: attention, windows, anti-aliased pooling with its
mirrored borders, positions that are added to the map.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from atrous.backbones.timm_layers import SAMPLED
from atrous.errors import AtrousError
from atrous.layers.conv import Conv2dSame

SIZE = 256
"""Height and width of the image; every stride up to 256 divides it."""

ARITHMETIC = ("add", "add_", "sub", "mul", "mul_", "div", "pow", "clamp")
ACTIVATIONS = (
    *("celu", "elu", "gelu", "hardsigmoid", "hardswish", "hardtanh", "leaky_relu", "mish", "prelu", "relu", "relu_"),
    *("relu6", "selu", "sigmoid", "sigmoid_", "silu", "silu_", "softplus", "tanh", "tanh_"),
)
LAYERS = ("batch_norm", "layer_norm", "linear", "dropout", "dropout2d", "dropout_")
LOOKS = ("_assert", "__get__", "size", "dim", "to", "float", "type_as", "permute", "contiguous")
PER_PIXEL = frozenset((*ARITHMETIC, *ACTIVATIONS, *LAYERS, *LOOKS))
"""Operations that compute each pixel of a map from the same pixel."""

OF_CHANNELS = frozenset(("cat", "chunk", "split"))
"""Operations that are per pixel if their dimension is that of the channels."""

IN_LAYERS: dict[str, type[nn.Module]] = {
    "conv2d": nn.Conv2d,
    "max_pool2d": nn.MaxPool2d,
    "avg_pool2d": nn.AvgPool2d,
    "_max_pool2d": nn.MaxPool2d,
}
"""Operations whose strides and dilations are those of their layer."""

OF_PARAMETERS = frozenset(("view", "reshape", "reshape_as", "unsqueeze", "expand"))
"""Operations that may change the shape of parameters, but not of maps."""


@dataclass
class Graph:
    """Strides of a network as built, and its maps."""

    input_strides: dict[str, int] = field(default_factory=dict)
    """The stride at the input of each convolution and pooling, and of each layer that samples its map, by name."""
    maps: list[tuple[int, int]] = field(default_factory=list)
    """Channels and stride of each map."""
    is_parallel: bool = False
    """Whether branches of several strides exchange their maps, which are resized by fixed factors."""


def trace_strides(network: nn.Module, forward: Callable[[Tensor], Sequence[Tensor]], in_channels: int) -> Graph:
    """Run a network on the "meta" device and record the strides of its layers.

    Raises: `AtrousError` for a network that cannot be dilated, with the layer that prevents it.
    """
    trace = _Trace(network)
    hooks = []
    for name, layer in network.named_modules():
        hooks.append(layer.register_forward_pre_hook(trace.enter(name)))
        hooks.append(layer.register_forward_hook(trace.leave))
    training = network.training
    network.eval()
    image = torch.empty(1, in_channels, SIZE, SIZE, device="meta")
    try:
        with torch.no_grad(), trace:
            maps = forward(image)
    except (RuntimeError, AssertionError) as error:  # windows of fixed sizes
        reason = str(error).splitlines()[0]
        raise AtrousError(f"it takes images of certain sizes only ({reason})") from error
    finally:
        network.train(training)
        for hook in hooks:
            hook.remove()
    trace.graph.maps = [(each.shape[1], SIZE // each.shape[2]) for each in maps]
    return trace.graph


class _Trace(TorchFunctionMode):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.graph = Graph()
        self.stack: list[tuple[str, nn.Module]] = [("", network)]

    def enter(self, name: str) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        def enter(layer: nn.Module, inputs: tuple[Any, ...]) -> None:
            self.stack.append((name, layer))
            if isinstance(layer, (nn.Conv2d, nn.MaxPool2d, nn.AvgPool2d, *SAMPLED)) and not self._in_gate():
                self._record(name, layer, inputs[0])

        return enter

    def leave(self, *_: Any) -> None:
        self.stack.pop()

    def _in_gate(self) -> bool:
        return any(isinstance(layer, SAMPLED) for _, layer in self.stack[:-1])

    def _record(self, name: str, layer: nn.Module, x: Tensor) -> None:
        height = x.shape[1 if getattr(layer, "channels_last", False) else 2]
        stride = SIZE // height
        if SIZE % height:
            raise AtrousError(f"its layer {name} gets a map of {height} pixels for an image of {SIZE}")
        if self.graph.input_strides.setdefault(name, stride) != stride:
            raise AtrousError(f"its layer {name} is used at several strides")
        geometry = {key: getattr(layer, key, None) for key in ("kernel_size", "stride", "padding", "dilation")}
        _check_geometry(name, layer, geometry)

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if name == "interpolate":
            self.graph.is_parallel = True
        elif not self._is_allowed(name, args, kwargs):
            path, layer = self.stack[-1]
            raise AtrousError(
                f"its layer {path or 'itself'} ({type(layer).__name__}) computes '{name}', which no dilation can follow"
            )
        return func(*args, **kwargs)

    def _is_allowed(self, name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
        _, layer = self.stack[-1]
        if name in PER_PIXEL or any(
            isinstance(each, (*SAMPLED, Conv2dSame)) or _pads_end(each) for _, each in self.stack
        ):
            return True
        if name in OF_CHANNELS:
            position = 1 if name == "cat" else 2
            return (kwargs.get("dim", args[position] if len(args) > position else 0)) in (1, -1)
        if name in IN_LAYERS:
            return isinstance(layer, IN_LAYERS[name])
        if name in OF_PARAMETERS:
            return isinstance(args[0], nn.Parameter) or args[0].ndim < 4 or args[0].shape[2:] == (1, 1)
        if name == "__getitem__":
            index = args[1] if isinstance(args[1], tuple) else (args[1],)
            return all(each == slice(None) for each in index[2:])
        return False


def _pads_end(layer: nn.Module) -> bool:
    return getattr(layer, "pads_end", False)


def _check_geometry(name: str, layer: nn.Module, geometry: Mapping[str, Any]) -> None:
    """Check that a layer keeps the size of the map, divided by its stride."""
    if isinstance(layer, SAMPLED) or _pads_end(layer):
        return
    pairs = {key: value if isinstance(value, tuple) else (value,) * 2 for key, value in geometry.items()}
    if any(first != second for first, second in pairs.values()):
        raise AtrousError(f"its layer {name} ({layer}) differs between rows and columns")
    for kernel, padding, dilation in zip(*(pairs[key] for key in ("kernel_size", "padding", "dilation")), strict=True):
        if kernel % 2 == 0 or padding != (dilation or 1) * (kernel - 1) // 2:
            raise AtrousError(f"its layer {name} ({layer}) has no padding that keeps the size of the map")
    if isinstance(layer, nn.AvgPool2d) and pairs["kernel_size"] != (1, 1):
        raise AtrousError(f"its layer {name} ({layer}) averages overlapping windows")
