"""Exact receptive fields of all feature maps of a network, composed along the operations of a forward pass.

A `ReceptiveFieldTracer` intercepts every tensor operation of a forward pass, best on the "meta" device, where nothing
is computed. For each row and each column of a feature map it records the first and the last image pixel that the values
depend on. Convolutions, transposed convolutions, pooling, unpooling, resizing, padding, cropping and concatenation
change these bounds exactly; pointwise operations keep them. Any other operation raises an error: receptive fields are
never estimated.
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
    ReceptiveField,
    adaptive_pool,
    bilinear_resize,
    empty_span,
    image_field,
    sliding_window,
    transposed_conv,
    union,
)
from atrous.errors import AtrousError

aten = torch.ops.aten
Windows = list[tuple[int, int, int, int]]
"""Kernel, stride, padding and dilation along each axis."""

Rule = Callable[[ReceptiveField, Sequence[int], Sequence[Any]], ReceptiveField]
"""From the receptive field of the input, the shape of the output and the arguments to the field of the output."""


def _convolution(field: ReceptiveField, shape: Sequence[int], args: Sequence[Any]) -> ReceptiveField:
    weight, _, stride, padding, dilation, transposed = args[1:7]
    geometry = zip(weight.shape[2:], _pair(stride), _pair(padding), _pair(dilation), strict=True)
    apply = transposed_conv if transposed else sliding_window
    rows, columns = (apply(span, out, *g) for span, out, g in zip(field, shape[-2:], geometry, strict=True))
    return rows, columns


def _max_pool(field: ReceptiveField, shape: Sequence[int], args: Sequence[Any]) -> ReceptiveField:
    rows, columns = (
        sliding_window(span, out, *g) for span, out, g in zip(field, shape[-2:], _pooling_windows(args), strict=True)
    )
    return rows, columns


def _pooling_windows(args: Sequence[Any]) -> Windows:
    kernel, stride, padding, dilation = _with_defaults(args[1:5], None, [], 0, 1)
    return list(zip(_pair(kernel), _pair(stride or kernel), _pair(padding), _pair(dilation), strict=True))


def _average_pool(field: ReceptiveField, shape: Sequence[int], args: Sequence[Any]) -> ReceptiveField:
    kernel, stride, padding = _with_defaults(args[1:4], None, [], 0)
    return _max_pool(field, shape, [args[0], kernel, stride, padding])


def _adaptive_pool(field: ReceptiveField, shape: Sequence[int], _: Sequence[Any]) -> ReceptiveField:
    return adaptive_pool(field[0], shape[-2]), adaptive_pool(field[1], shape[-1])


def _bilinear(field: ReceptiveField, shape: Sequence[int], args: Sequence[Any]) -> ReceptiveField:
    return bilinear_resize(field[0], shape[-2], args[2]), bilinear_resize(field[1], shape[-1], args[2])


def _pad(field: ReceptiveField, shape: Sequence[int], args: Sequence[Any]) -> ReceptiveField:
    left, top = args[1][0], args[1][2] if len(args[1]) > 2 else 0
    return field[0].select(np.arange(shape[-2]) - top), field[1].select(np.arange(shape[-1]) - left)


def _reflect(field: ReceptiveField, shape: Sequence[int], args: Sequence[Any]) -> ReceptiveField:
    rows, columns = (
        span.select((len(span) - 1) - np.abs((len(span) - 1) - np.abs(np.arange(out) - before)))
        for span, out, before in zip(field, shape[-2:], (args[1][2], args[1][0]), strict=True)
    )
    return rows, columns


def _replicate(field: ReceptiveField, shape: Sequence[int], args: Sequence[Any]) -> ReceptiveField:
    rows, columns = (
        span.select(np.clip(np.arange(out) - before, 0, len(span) - 1))
        for span, out, before in zip(field, shape[-2:], (args[1][2], args[1][0]), strict=True)
    )
    return rows, columns


def _slice(field: ReceptiveField, shape: Sequence[int], args: Sequence[Any]) -> ReceptiveField:
    dim, start, _, step = _with_defaults(args[1:], 0, None, None, 1)
    axis = dim % len(shape) - len(shape)  # -2: rows, -1: columns
    if axis < -2:
        return field
    span = field[axis]
    start = 0 if start is None else start + len(span) if start < 0 else start
    cut = span.select(np.arange(shape[axis]) * step + start).with_stride(span.stride * step)
    return (cut, field[1]) if axis == -2 else (field[0], cut)


def _reduce(field: ReceptiveField, shape: Sequence[int], args: Sequence[Any]) -> ReceptiveField:
    axes = args[0].ndim
    dims = {dim % axes - axes for dim in _list(args[1])} if len(args) > 1 else {-2, -1}
    rows, columns = field
    return adaptive_pool(rows, 1) if -2 in dims else rows, adaptive_pool(columns, 1) if -1 in dims else columns


def _pointwise(field: ReceptiveField, shape: Sequence[int], _: Sequence[Any]) -> ReceptiveField:
    rows, columns = field
    if (len(rows), len(columns)) == tuple(shape[-2:]):
        return field
    if len(rows) == len(columns) == 1:  # one pixel broadcast over a map
        return union([rows, empty_span(rows, shape[-2])]), union([columns, empty_span(columns, shape[-1])])
    raise AtrousError(
        f"Unknown receptive field: a map of {len(rows)} x {len(columns)} became {shape[-2]} x {shape[-1]}."
    )


def _permute(field: ReceptiveField, shape: Sequence[int], args: Sequence[Any]) -> ReceptiveField:
    """Keep the field of a map whose channels move to the last axis, or back."""
    if list(args[1]) not in ([0, 2, 3, 1], [0, 3, 1, 2]):
        raise AtrousError(f"The receptive field of axes permuted to {list(args[1])} is unknown.")
    return field


def _layer_norm(field: ReceptiveField, shape: Sequence[int], args: Sequence[Any]) -> ReceptiveField:
    """Keep the field of a map that is normalized over its channels only, which are the last axis."""
    if len(args[1]) != 1:
        raise AtrousError("The receptive field of a normalization over rows and columns is unknown.")
    return field


RULES: dict[Any, Rule] = {
    aten.convolution: _convolution,
    aten.max_pool2d_with_indices: _max_pool,
    aten.avg_pool2d: _average_pool,
    aten.avg_pool3d: _average_pool,
    aten._adaptive_avg_pool2d: _adaptive_pool,
    aten.adaptive_max_pool2d: _adaptive_pool,
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

POSITION_PRESERVING = {
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
    "hardswish",
    "stack",
    "_softmax",
    "_log_softmax",
    "unsqueeze",
    "squeeze",
}
"""Operations that are not tagged as pointwise but keep rows and columns in place."""


class ReceptiveFieldTracer(TorchDispatchMode):
    """Trace the receptive fields of all feature maps (tensors of four or more dimensions) computed from an image.

    `on_op` is called after every operation with the operation, its arguments and its result. `sources` are labels of
    tensors: everything computed from a tensor inherits its labels until it gets labels of its own.
    """

    def __init__(self, on_op: Callable[[Any, Sequence[Any], Any], None] | None = None) -> None:
        super().__init__()
        self._fields = WeakIdKeyDictionary()
        self._on_op = on_op
        self.sources: MutableMapping[Tensor, frozenset[int]] = WeakIdKeyDictionary()
        self._indices: MutableMapping[Tensor, Tensor] = WeakIdKeyDictionary()
        self._flattened: MutableMapping[Tensor, ReceptiveField] = WeakIdKeyDictionary()  # of maps (N, C, h w)
        self._max_indices: MutableMapping[Tensor, Windows] = WeakIdKeyDictionary()  # windows of max pooling
        self._unpooled: MutableMapping[Tensor, tuple[ReceptiveField, Windows]] = WeakIdKeyDictionary()

    def set_image(self, image: Tensor) -> Tensor:
        """Measure receptive fields in pixels of this tensor, and return it."""
        self._fields[image] = image_field(*image.shape[-2:])
        return image

    def receptive_field(self, tensor: Tensor) -> ReceptiveField | None:
        """Return the receptive field of a tensor of the pass, or None if it does not depend on the image."""
        return self._fields.get(tensor)

    def make_global(self, tensor: Tensor) -> None:
        """Let every pixel of a tensor depend on everything that any of its pixels depends on."""
        rows, columns = (
            replace(
                span, first=np.full_like(span.first, span.first.min()), last=np.full_like(span.last, span.last.max())
            )
            for span in self._fields[tensor]
        )
        self._fields[tensor] = replace(rows, is_global=True), replace(columns, is_global=True)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        inputs = _tensors(args)
        fields = [field for x in inputs if (field := self._fields.get(x)) is not None]
        sources = frozenset().union(*(self.sources.get(x, ()) for x in inputs))
        result = func(*args, **(kwargs or {}))
        self._unpool(func, args, result)
        for out in _tensors([result]):
            if fields and out.ndim >= 4 and out.dtype != torch.int64:
                self._fields[out] = self._propagate(func, fields, out, args)
            self.sources[out] = sources
        if not fields and isinstance(result, Tensor) and result.ndim <= 1 and not result.is_floating_point():
            self._compute_index(func, args, kwargs or {}, result)
        if self._on_op is not None:
            self._on_op(func, args, result)
        return result

    def _propagate(self, func: Any, fields: list[ReceptiveField], out: Tensor, args: Sequence[Any]) -> ReceptiveField:
        packet = func._overloadpacket
        if packet is aten.index_select:
            return self._index_select(fields[0], out, *args[1:])
        if packet in RULES and torch.Tag.pointwise not in func.tags:
            return RULES[packet](fields[0], out.shape, args)
        if packet is aten.cat and len(args) > 1 and args[1] % out.ndim > 1:
            raise AtrousError("Maps that are concatenated along rows or columns have no single receptive field.")
        if packet is aten.cat or torch.Tag.pointwise in func.tags or packet.__name__ in POSITION_PRESERVING:
            joined = union([rows for rows, _ in fields]), union([columns for _, columns in fields])
            return _pointwise(joined, out.shape, args)
        raise AtrousError(f"The receptive field of the operation {func} is unknown: add a rule for it to RULES.")

    def _unpool(self, func: Any, args: Sequence[Any], result: Any) -> None:
        """Handle max unpooling: flattened values are scattered to the indices of the maxima, then reshaped to a map.

        An output pixel depends on the pooled pixels whose windows contain it.
        """
        packet = func._overloadpacket
        source: Any = args[0] if args else None
        if packet is aten.max_pool2d_with_indices:
            self._max_indices[result[1]] = _pooling_windows(args)
        elif packet in (aten.view, aten._unsafe_view):
            if source in self._max_indices:
                self._max_indices[result] = self._max_indices[source]
            elif source in self._unpooled and result.ndim == 4:
                field, pooling = self._unpooled[source]
                rows, columns = (
                    transposed_conv(span, out, *g)
                    for span, out, g in zip(field, result.shape[-2:], pooling, strict=True)
                )
                self._fields[result] = rows, columns
            elif source in self._fields and result.ndim == 3:
                self._flattened[result] = self._fields[source]
        elif packet is aten.scatter and args[2] in self._max_indices and args[3] in self._flattened:
            self._unpooled[result] = self._flattened[args[3]], self._max_indices[args[2]]

    def _compute_index(self, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any], result: Tensor) -> None:
        """Compute index tensors on the CPU too: on the meta device they lack the values that `index_select` needs."""
        args = [self._indices.get(arg, arg) if isinstance(arg, Tensor) else arg for arg in args]
        if not any(isinstance(arg, Tensor) and arg.is_meta for arg in args):
            self._indices[result] = func(*args, **{**kwargs, **({"device": "cpu"} if "device" in kwargs else {})})

    def _index_select(self, field: ReceptiveField, out: Tensor, dim: int, index: Tensor) -> ReceptiveField:
        axis = dim % out.ndim - out.ndim
        if axis < -2:
            return field
        selected = field[axis].select(self._indices[index].numpy())
        return (selected, field[1]) if axis == -2 else (field[0], selected)


def _tensors(args: Any) -> list[Tensor]:
    tensors: list[Tensor] = []
    for arg in args:
        if isinstance(arg, Tensor):
            tensors.append(arg)
        elif isinstance(arg, (list, tuple)):
            tensors.extend(_tensors(arg))
    return tensors


def _list(value: Any) -> list[int]:
    return list(value) if isinstance(value, (list, tuple)) else [value]


def _with_defaults(args: Sequence[Any], *defaults: Any) -> list[Any]:
    return [*args, *defaults[len(args) :]]


def _pair(value: Any) -> list[int]:
    values = _list(value)
    return (values * 2)[-2:]  # of three axes, the last two
