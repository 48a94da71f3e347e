"""What each value in a network can see of the image, composed exactly along the graph that is run.

A `FieldTracer` watches every tensor operation of a pass, best on the "meta" device, where nothing is computed, and
keeps for each map, row by row and column by column, the first and the last pixel of the image that it depends on.
Convolutions, transposed ones too, pooling, resizing, unpooling, padding, cropping and joining each move these bounds
exactly; pointwise operations pass them on. An operation that is none of these is an error, never a guess.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, MutableMapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakIdKeyDictionary

from atrous.analysis.spans import (
    Field,
    binned,
    blank,
    field_of_image,
    interpolated,
    scattered,
    union,
    windows,
)
from atrous.errors import AtrousError

aten = torch.ops.aten
Windows = list[tuple[int, int, int, int]]
"""Kernel, stride, padding and dilation along each axis."""

Rule = Callable[[Field, Sequence[int], Sequence[Any]], Field]


def _convolution(field: Field, shape: Sequence[int], args: Sequence[Any]) -> Field:
    weight, _, stride, padding, dilation, transposed = args[1:7]
    geometry = zip(weight.shape[2:], _pair(stride), _pair(padding), _pair(dilation), strict=True)
    move = scattered if transposed else windows
    rows, columns = (move(span, out, *g) for span, out, g in zip(field, shape[-2:], geometry, strict=True))
    return rows, columns


def _max_pool(field: Field, shape: Sequence[int], args: Sequence[Any]) -> Field:
    rows, columns = (windows(span, out, *g) for span, out, g in zip(field, shape[-2:], _max_windows(args), strict=True))
    return rows, columns


def _max_windows(args: Sequence[Any]) -> Windows:
    kernel, stride, padding, dilation = _filled(args[1:5], None, [], 0, 1)
    return list(zip(_pair(kernel), _pair(stride or kernel), _pair(padding), _pair(dilation), strict=True))


def _average_pool(field: Field, shape: Sequence[int], args: Sequence[Any]) -> Field:
    kernel, stride, padding = _filled(args[1:4], None, [], 0)
    return _max_pool(field, shape, [args[0], kernel, stride, padding])


def _adaptive(field: Field, shape: Sequence[int], _: Sequence[Any]) -> Field:
    return binned(field[0], shape[-2]), binned(field[1], shape[-1])


def _bilinear(field: Field, shape: Sequence[int], args: Sequence[Any]) -> Field:
    return interpolated(field[0], shape[-2], args[2]), interpolated(field[1], shape[-1], args[2])


def _pad(field: Field, shape: Sequence[int], args: Sequence[Any]) -> Field:
    left, top = args[1][0], args[1][2] if len(args[1]) > 2 else 0
    return field[0].at(np.arange(shape[-2]) - top), field[1].at(np.arange(shape[-1]) - left)


def _reflect(field: Field, shape: Sequence[int], args: Sequence[Any]) -> Field:
    rows, columns = (
        span.at((len(span) - 1) - np.abs((len(span) - 1) - np.abs(np.arange(out) - before)))
        for span, out, before in zip(field, shape[-2:], (args[1][2], args[1][0]), strict=True)
    )
    return rows, columns


def _replicate(field: Field, shape: Sequence[int], args: Sequence[Any]) -> Field:
    rows, columns = (
        span.at(np.clip(np.arange(out) - before, 0, len(span) - 1))
        for span, out, before in zip(field, shape[-2:], (args[1][2], args[1][0]), strict=True)
    )
    return rows, columns


def _slice(field: Field, shape: Sequence[int], args: Sequence[Any]) -> Field:
    dim, start, _, step = _filled(args[1:], 0, None, None, 1)
    axis = dim % len(shape) - len(shape)  # -2: rows, -1: columns
    if axis < -2:
        return field
    span = field[axis]
    start = 0 if start is None else start + len(span) if start < 0 else start
    cut = span.at(np.arange(shape[axis]) * step + start).strided(span.stride * step)
    return (cut, field[1]) if axis == -2 else (field[0], cut)


def _reduce(field: Field, shape: Sequence[int], args: Sequence[Any]) -> Field:
    axes = args[0].ndim
    dims = {dim % axes - axes for dim in _list(args[1])} if len(args) > 1 else {-2, -1}
    return binned(field[0], 1) if -2 in dims else field[0], binned(field[1], 1) if -1 in dims else field[1]


def _same(field: Field, shape: Sequence[int], _: Sequence[Any]) -> Field:
    rows, columns = field
    if (len(rows), len(columns)) == tuple(shape[-2:]):
        return field
    if len(rows) == len(columns) == 1:  # one pixel spread over a map
        return union([rows, blank(rows, shape[-2])]), union([columns, blank(columns, shape[-1])])
    raise AtrousError(f"A map of {len(rows)} x {len(columns)} became one of {shape[-2]} x {shape[-1]}.")


def _permute(field: Field, shape: Sequence[int], args: Sequence[Any]) -> Field:
    """Keep the field of a map whose channels move behind its rows and columns, or back."""
    if list(args[1]) not in ([0, 2, 3, 1], [0, 3, 1, 2]):
        raise AtrousError(f"The receptive field of axes permuted to {list(args[1])} is not known.")
    return field


def _layer_norm(field: Field, shape: Sequence[int], args: Sequence[Any]) -> Field:
    """Keep the field of a map that is normalized over its channels alone, which `_permute` has put last."""
    if len(args[1]) != 1:
        raise AtrousError("The receptive field of a normalization over rows and columns is not known.")
    return field


RULES: dict[Any, Rule] = {
    aten.convolution: _convolution,
    aten.max_pool2d_with_indices: _max_pool,
    aten.avg_pool2d: _average_pool,
    aten.avg_pool3d: _average_pool,
    aten._adaptive_avg_pool2d: _adaptive,
    aten.adaptive_max_pool2d: _adaptive,
    aten.upsample_bilinear2d: _bilinear,
    aten.constant_pad_nd: _pad,
    aten.reflection_pad2d: _reflect,
    aten.replication_pad2d: _replicate,
    aten.slice: _slice,
    aten.mean: _reduce,
    aten.sum: _reduce,
    aten.amax: _reduce,
    aten.max: _reduce,
    aten.permute: _permute,
    aten.native_layer_norm: _layer_norm,
}

PASSED_ON = {
    "native_batch_norm",
    "_native_batch_norm_legit",
    "_native_batch_norm_legit_no_training",
    "view",
    "_unsafe_view",
    "expand",
    "detach",
    "alias",
    "clone",
    "_to_copy",
    "contiguous",
    "copy_",
    "native_dropout",
    "stack",
    "_softmax",
    "_log_softmax",
    "unsqueeze",
    "squeeze",
}
"""Operations that are not tagged as pointwise but leave rows and columns where they are."""


class FieldTracer(TorchDispatchMode):
    """Follows the receptive fields of all maps (tensors of four dimensions or more) that descend from `watch`ed ones.

    `on_op` is called behind every operation, with what was called, its arguments and its result. `sources` are marks:
    set on a tensor, they are handed on to all that is computed from it until they are set anew.
    """

    def __init__(self, on_op: Callable[[Any, Sequence[Any], Any], None] | None = None) -> None:
        super().__init__()
        self._fields = WeakIdKeyDictionary()
        self._on_op = on_op
        self.sources: MutableMapping[Tensor, frozenset[int]] = WeakIdKeyDictionary()
        self._indices: MutableMapping[Tensor, Tensor] = WeakIdKeyDictionary()
        self._flat: MutableMapping[Tensor, Field] = WeakIdKeyDictionary()  # of maps flattened to (N, C, h w)
        self._positions: MutableMapping[Tensor, Windows] = WeakIdKeyDictionary()  # where maxima were, for unpooling
        self._scattered: MutableMapping[Tensor, tuple[Field, Windows]] = WeakIdKeyDictionary()

    def watch(self, image: Tensor) -> Tensor:
        """Let the pixels of this tensor be what fields are counted in."""
        self._fields[image] = field_of_image(*image.shape[-2:])
        return image

    def field(self, tensor: Tensor) -> Field | None:
        """Of a tensor seen in the pass; none where the image has no part in it."""
        return self._fields.get(tensor)

    def widen(self, tensor: Tensor) -> None:
        """Let every pixel of this tensor depend on all that any of them depends on."""
        rows, columns = (
            replace(
                span, first=np.full_like(span.first, span.first.min()), last=np.full_like(span.last, span.last.max())
            )
            for span in self._fields[tensor]
        )
        self._fields[tensor] = replace(rows, whole=True), replace(columns, whole=True)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        inputs = _tensors(args)
        fields = [field for x in inputs if (field := self._fields.get(x)) is not None]
        sources = frozenset().union(*(self.sources.get(x, ()) for x in inputs))
        result = func(*args, **(kwargs or {}))
        self._unpool(func, args, result)
        for out in _tensors([result]):
            if fields and out.ndim >= 4 and out.dtype != torch.int64:
                self._fields[out] = self._follow(func, fields, out, args)
            self.sources[out] = sources
        if not fields and isinstance(result, Tensor) and result.ndim == 1 and not result.is_floating_point():
            self._compute_index(func, args, kwargs or {}, result)
        if self._on_op is not None:
            self._on_op(func, args, result)
        return result

    def _follow(self, func: Any, fields: list[Field], out: Tensor, args: Sequence[Any]) -> Field:
        packet = func._overloadpacket
        if packet is aten.index_select:
            return self._selected(fields[0], out, *args[1:])
        if packet in RULES and torch.Tag.pointwise not in func.tags:
            return RULES[packet](fields[0], out.shape, args)
        if packet is aten.cat and len(args) > 1 and args[1] % out.ndim > 1:
            raise AtrousError("Maps that are put side by side have no one receptive field.")
        if packet is aten.cat or torch.Tag.pointwise in func.tags or packet.__name__ in PASSED_ON:
            joined = union([rows for rows, _ in fields]), union([columns for _, columns in fields])
            return _same(joined, out.shape, args)
        raise AtrousError(f"The receptive field of the operation {func} is not known.")

    def _unpool(self, func: Any, args: Sequence[Any], result: Any) -> None:
        """Max-unpooling as a scatter: flattened values go to where the maxima were, and the plane gets its shape back.

        A pixel of it sees the pooled pixels in whose windows it lies.
        """
        packet = func._overloadpacket
        source: Any = args[0] if args else None
        if packet is aten.max_pool2d_with_indices:
            self._positions[result[1]] = _max_windows(args)
        elif packet in (aten.view, aten._unsafe_view):
            if source in self._positions:
                self._positions[result] = self._positions[source]
            elif source in self._scattered and result.ndim == 4:
                field, places = self._scattered[source]
                rows, columns = (
                    scattered(span, out, *g) for span, out, g in zip(field, result.shape[-2:], places, strict=True)
                )
                self._fields[result] = rows, columns
            elif source in self._fields and result.ndim == 3:
                self._flat[result] = self._fields[source]
        elif packet is aten.scatter and args[2] in self._positions and args[3] in self._flat:
            self._scattered[result] = self._flat[args[3]], self._positions[args[2]]

    def _compute_index(self, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any], result: Tensor) -> None:
        """Where the pass computes nothing, the few numbers that say which rows to take are computed beside it."""
        args = [self._indices.get(arg, arg) if isinstance(arg, Tensor) else arg for arg in args]
        if not any(isinstance(arg, Tensor) and arg.is_meta for arg in args):
            self._indices[result] = func(*args, **{**kwargs, **({"device": "cpu"} if "device" in kwargs else {})})

    def _selected(self, field: Field, out: Tensor, dim: int, index: Tensor) -> Field:
        axis = dim % out.ndim - out.ndim
        if axis < -2:
            return field
        chosen = field[axis].at(self._indices[index].numpy())
        return (chosen, field[1]) if axis == -2 else (field[0], chosen)


def _tensors(args: Any) -> list[Tensor]:
    found: list[Tensor] = []
    for arg in args:
        if isinstance(arg, Tensor):
            found.append(arg)
        elif isinstance(arg, (list, tuple)):
            found.extend(_tensors(arg))
    return found


def _list(value: Any) -> list[int]:
    return list(value) if isinstance(value, (list, tuple)) else [value]


def _filled(args: Sequence[Any], *defaults: Any) -> list[Any]:
    return [*args, *defaults[len(args) :]]


def _pair(value: Any) -> list[int]:
    values = _list(value)
    return (values * 2)[-2:]  # of three axes, those of the map
