"""Atrous convolution: the only code that trades strides for dilations.

A network that ends at stride 32 can be run at stride 16 or 8 with the same weights: the last strides are set to 1,
and everything behind a removed stride samples its input that many times more widely. Done exactly, the denser
features contain the strided ones: at stride 8, every fourth pixel equals the features at stride 32 (atrous
consistency). So the very convolution that lost its stride keeps the dilation it had, for its input is as dense as it
was; only the later ones are dilated. Caffe's DeepLab v2 and PSPNet dilate the whole stage, its first convolution
included, which gives other features: `whole_stage=True`, for weights that were trained so.

Source: DeepLab v1 section 3.1 (the "hole" algorithm), DeepLab v3 section 3 and figure 3.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple, TypeAlias

from torch import nn

from atrous.errors import AtrousError

Spatial: TypeAlias = "nn.Conv2d | nn.MaxPool2d"


class Native(NamedTuple):
    """A layer's geometry as it was built, before any change of stride."""

    stride: int
    dilation: int
    padding: int
    kernel: int


def native(layer: Spatial) -> Native:
    """The layer's geometry as built, remembered when first asked for."""
    known: Native | None = getattr(layer, "_native", None)
    if known is None:
        known = Native(*(square(value) for value in (layer.stride, layer.dilation, layer.padding, layer.kernel_size)))
        layer._native = known  # type: ignore[assignment]
    return known


def unit_stride(unit: nn.Module) -> int:
    """By how much a unit reduces the resolution as built; the strided layers of main path and shortcut agree."""
    return max((native(layer).stride for layer in _spatial(unit)), default=1)


def output_strides(units: Iterable[nn.Module]) -> list[int]:
    """The strides at which a chain of units can be run, ascending: 1, ..., the stride it was built with."""
    strides = [1]
    for unit in units:
        if (stride := unit_stride(unit)) > 1:
            strides.append(strides[-1] * stride)
    return strides


def set_output_stride(units: Sequence[nn.Module], output_stride: int, *, whole_stage: bool = False) -> None:
    """Give a chain of units the output stride asked for, by removing its last strides; no weight moves.

    `units` are in order of execution. In a unit the main path comes before the shortcut, in order of registration, and
    has at most one strided layer. An integer attribute `grid` of a unit multiplies its dilations (multi-grid,
    DeepLab v3 section 3.2.1). A layer whose attribute `dilates` is false loses its stride but is never dilated, as the
    max-pooling of Caffe, which could not be.

    Raises: `AtrousError` for a stride at which the chain cannot run.
    """
    possible = output_strides(units)
    if output_stride not in possible:
        raise AtrousError(f"output_stride {output_stride}: this network runs at {', '.join(map(str, possible))}.")
    stride = rate = 1
    for unit in units:
        reduction = unit_stride(unit)
        remove = stride * reduction > output_stride
        rate_behind = rate * reduction if remove else rate
        if not remove:
            stride *= reduction
        behind = whole_stage and remove
        for layer in _spatial(unit):
            built = native(layer)
            dilation = built.dilation * getattr(unit, "grid", 1) * (rate_behind if behind else rate)
            dilates = built.kernel > 1 and getattr(layer, "dilates", True)
            _set_geometry(layer, 1 if remove else built.stride, dilation if dilates else 1)
            behind = behind or built.stride > 1
        rate = rate_behind


def set_dilation(layer: nn.Conv2d, dilation: int) -> None:
    """Set the dilation of a size-keeping convolution, its padding with it."""
    _set_geometry(layer, native(layer).stride, dilation)


def _set_geometry(layer: Spatial, stride: int, dilation: int) -> None:
    built = native(layer)
    layer.stride = (stride, stride)
    layer.dilation = (dilation, dilation)
    if built.padding and built.padding == built.dilation * (built.kernel - 1) // 2:  # size-keeping, and to stay so
        layer.padding = (dilation * (built.kernel - 1) // 2,) * 2


def _spatial(unit: nn.Module) -> list[Spatial]:
    return [layer for layer in unit.modules() if isinstance(layer, (nn.Conv2d, nn.MaxPool2d))]


def square(value: int | tuple[int, ...] | str) -> int:
    """The one number of a kernel, stride, dilation or padding that is the same along both axes."""
    if isinstance(value, int):
        return value
    if isinstance(value, str) or len(set(value)) != 1:
        raise AtrousError(f"Only square, explicitly padded layers can be dilated, not {value}.")
    return value[0]
