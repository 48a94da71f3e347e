"""Map layers of Caffe to modules of our networks: convolutions, four kinds of normalization, the mean field.

A rule names one of our modules, the layers that hold its parameters, and the conversion. Convolutions and transposed
convolutions store their weights as torch does.

Source: `src/caffe/layers/` of BVLC/caffe (`batch_norm_layer.cpp`, `scale_layer.cpp`), hszhao/PSPNet and
alexgkendall/caffe-segnet (`bn_layer.cpp`), torrvision/crfasrnn (`multi_stage_meanfield.cpp`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from atrous.errors import AtrousError
from atrous.models import SegmentationModel
from atrous.weights.importers.caffe_file import Layer

Array: TypeAlias = NDArray[np.float32]

EPS = 1e-5
"""The epsilon of batch normalization in our networks, and the default of Caffe's."""

_LARGEST_DILATION = 1000
_SHOWN = 4
_LONGEST_NAME = 60


class Rule(NamedTuple):
    """The parameters of one of our modules, from the layers of these names."""

    module: str
    layers: tuple[str, ...]
    convert: Callable[..., dict[str, Array]]


@dataclass(frozen=True)
class Network:
    """A recognized network: one of ours with its arguments, its preprocessing, and the rules for its parameters."""

    model: str
    num_classes: int
    mean: tuple[float, float, float]
    """The mean of the released weights, in BGR."""
    rules: list[Rule]
    arguments: dict[str, Any] = field(default_factory=dict)
    preprocessing: dict[str, Any] = field(default_factory=dict)
    """Resizing, where the released scripts do any."""


Layers: TypeAlias = Mapping[str, Layer]


def has(layers: Layers, name: str) -> bool:
    """Tell whether a layer of this name has parameters."""
    return name in layers and bool(layers[name].blobs)


def outputs(layers: Layers, name: str, default: int) -> int:
    """Count the outputs of a layer; the default if it is missing, which is reported later."""
    shape = layers[name].blobs[0].shape if has(layers, name) else ()
    return shape[0] if shape and shape[0] else default


def stated(layer: Layer, name: str, default: int) -> int:
    """Read the stride or dilation that a file states for a layer; Caffe leaves out 1.

    Raises: `AtrousError` for a value that no network has.
    """
    value = layer.geometry.get(name, 1) if "kernel_size" in layer.geometry else default
    if not 1 <= value <= _LARGEST_DILATION:
        raise AtrousError(f"layer {show(layer.name)} has {name} {value}; expected 1 to {_LARGEST_DILATION}.")
    return value


def width_arguments(layers: Layers, first: str) -> dict[str, Any]:
    """Derive the width multiplier from the outputs of the first convolution, 64 in the released networks."""
    channels = outputs(layers, first, 64)
    return {} if channels == 64 else {"width": channels / 64}


class _ArraysError(ValueError):
    """A layer with another number of arrays than its type has."""


def conv(module: str, layer: str) -> Rule:
    """Map a convolution or transposed convolution, with or without bias."""
    return Rule(module, (layer,), _convolution)


def norm_and_scale(module: str, norm: str, scale: str) -> Rule:
    """Map `BatchNorm`, which only normalizes, and the `Scale` after it to one batch normalization."""
    return Rule(module, (norm, scale), _norm_and_scale)


def slope_norm(module: str, layer: str) -> Rule:
    """Map PSPNet's `BN`: slope, bias, mean, variance."""
    return Rule(module, (layer,), _slope_norm)


def folded_norm(module: str, layer: str) -> Rule:
    """Map SegNet's `BN` for inference, a scale and a shift: a batch normalization that does not normalize."""
    return Rule(module, (layer,), _folded_norm)


def channel_scale(module: str, layer: str) -> Rule:
    """Map a `Scale` without bias."""
    return Rule(module, (layer,), lambda scale: {"weight": _arrays(scale, 1)[0].reshape(-1)})


def mean_field(module: str, layer: str) -> Rule:
    """Map `MultiStageMeanfield`: three matrices, the weights of both kernels and the compatibility of classes."""
    return Rule(module, (layer,), _mean_field)


def pspnet_features(module: str, layer: str, branches: int) -> Rule:
    """Map the convolution after pyramid pooling, whose input has the pyramid's maps in the opposite order."""

    def convert(layer: Layer) -> dict[str, Array]:
        weight = _convolution(layer)["weight"]
        half = weight.shape[1] // 2 if weight.ndim == 4 else 0
        if not half or half % branches:
            return {"weight": weight}  # of another shape, which is reported as such
        maps = np.split(weight[:, half:], branches, axis=1)
        return {"weight": np.concatenate([weight[:, :half], *reversed(maps)], axis=1)}

    return Rule(module, (layer,), convert)


def _arrays(layer: Layer, count: int) -> tuple[Array, ...]:
    if len(layer.blobs) != count:
        raise _ArraysError(f"has {len(layer.blobs)} arrays, expected {count}")
    return layer.blobs


def _convolution(layer: Layer) -> dict[str, Array]:
    if len(layer.blobs) == 1:
        return {"weight": layer.blobs[0]}
    weight, bias = _arrays(layer, 2)
    return {"weight": weight, "bias": bias.reshape(-1)}


def _norm_and_scale(norm: Layer, scale: Layer) -> dict[str, Array]:
    """Divide the sums of means and variances by their weight, which is zero before the first image."""
    means, variances, factor = (array.reshape(-1) for array in _arrays(norm, 3))
    if len(factor) != 1:
        raise _ArraysError(f"has a scale factor of {len(factor)} values, expected 1")
    weight, bias = _arrays(scale, 2)
    with np.errstate(all="ignore"):  # infinite values are reported when they are loaded
        share = np.float32(1) / factor if factor[0] else factor
        return _batch_norm(weight, bias, means * share, variances * share, norm.eps)


def _slope_norm(layer: Layer) -> dict[str, Array]:
    slope, bias, mean, variance = _arrays(layer, 4)
    return _batch_norm(slope, bias, mean, variance, layer.eps)


def _folded_norm(layer: Layer) -> dict[str, Array]:
    scale, shift = _arrays(layer, 2)
    return _batch_norm(scale, shift, np.zeros_like(scale), np.full_like(scale, 1 - EPS), None)


def _batch_norm(weight: Array, bias: Array, mean: Array, variance: Array, eps: float | None) -> dict[str, Array]:
    """Name the arrays as torch does; another epsilon is added to the variance."""
    moved = variance if eps is None else variance + np.float32(eps - EPS)
    if (moved <= -EPS).any():
        raise _ArraysError("has negative variances, expected none")
    arrays = {"weight": weight, "bias": bias, "running_mean": mean, "running_var": moved}
    return {name: array.reshape(-1) for name, array in arrays.items()}


def _mean_field(layer: Layer) -> dict[str, Array]:
    names = ("spatial_weights", "bilateral_weights", "compatibility")
    matrices = (array[0, 0] if array.shape[:-2] == (1, 1) else array for array in _arrays(layer, 3))
    return dict(zip(names, matrices, strict=True))


def convert(
    path: Path, layers: Mapping[str, Layer], rules: Sequence[Rule], model: SegmentationModel
) -> dict[str, Tensor]:
    """Convert the layers of a file to the state dict of a model on the "meta" device.

    Raises: `AtrousError` naming layers that are missing, unexpected, of another shape or of another geometry.
    """
    known = [name for rule in rules for name in rule.layers]
    missing, unexpected = [name for name in known if name not in layers], layers.keys() - set(known)
    if missing or unexpected:
        lists = {"missing": missing, "unexpected": [name for name in layers if name in unexpected]}
        named = "; ".join(f"{kind}: {list_names(names)}" for kind, names in lists.items() if names)
        raise AtrousError(f"{path}: the layers differ from those of {_name(model)} ({named}).")
    expected, modules = model.state_dict(), dict(model.named_modules())
    tensors = {key: torch.tensor(0) for key in expected if key.endswith("num_batches_tracked")}
    for rule in rules:
        first = layers[rule.layers[0]]
        name, ours = show(first.name), _name(model)
        if rule.module not in modules:
            raise AtrousError(f"{path}: layer {name} has no counterpart in {ours}.")
        _check_geometry(path, first, modules[rule.module])
        try:
            arrays = rule.convert(*(layers[layer] for layer in rule.layers))
        except _ArraysError as error:
            raise AtrousError(f"{path}: layer {name} {error}, as in {ours}.") from error
        for kind, array in arrays.items():
            key = f"{rule.module}.{kind}"
            shape = tuple(expected[key].shape) if key in expected else None
            if shape != array.shape:
                wanted = f"expected {shape or 'none'}"
                raise AtrousError(f"{path}: layer {name} has a {kind} of shape {array.shape}, {wanted} as in {ours}.")
            tensors[key] = torch.from_numpy(array)
    return tensors


def _check_geometry(path: Path, layer: Layer, module: nn.Module) -> None:
    """Compare stride and dilation with those that the file states, if it does.

    The multi-scale branches of DeepLab v1 have strides only in training.
    """
    if "kernel_size" not in layer.geometry or not isinstance(module, nn.Conv2d):
        return
    for name, ours in (("stride", module.stride[0]), ("dilation", module.dilation[0])):
        theirs = layer.geometry.get(name, 1)
        in_branch = name == "stride" and layer.name.startswith(("data_", "pool"))
        if theirs != ours and not in_branch:
            raise AtrousError(
                f"{path}: layer {show(layer.name)} has {name} {theirs}, expected {ours}. A network with another "
                "geometry would compute other features from these weights."
            )


def _name(model: SegmentationModel) -> str:
    return model.card.model if model.card is not None else type(model).__name__


def list_names(names: Iterable[str]) -> str:
    """List the first names, and the number of the others."""
    known = list(names)
    more = f" and {len(known) - _SHOWN} more" if len(known) > _SHOWN else ""
    return ", ".join(map(show, known[:_SHOWN])) + more


def show(name: str) -> str:
    """Quote a name of a file for a message of one line."""
    return repr(name if len(name) <= _LONGEST_NAME else f"{name[:_LONGEST_NAME]}...")
