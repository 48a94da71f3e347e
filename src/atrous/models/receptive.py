"""What each value in a network can see of the image, composed exactly along the graph that is run.

A `FieldTracer` watches every tensor operation of a pass, best on the "meta" device, where nothing is computed, and
keeps for each map, row by row and column by column, the first and the last pixel of the image that it depends on.
Convolutions, transposed ones too, pooling, resizing, unpooling, padding, cropping and joining each move these bounds
exactly; pointwise operations pass them on. An operation that is none of these is an error, never a guess.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakIdKeyDictionary

from atrous.errors import AtrousError

aten = torch.ops.aten
NOTHING = np.iinfo(np.int64).max
"""As a first pixel: sees nothing but padding. The last pixel is then -1, so that unions need no special case."""


@dataclass(frozen=True)
class Span:
    """Along one axis, the first and last image pixel that each pixel of a map sees.

    `stride` is the map's nominal one. `whole`: the map has been averaged (or the like) over bins that grow with the
    image, so there is no receptive field short of the image.
    """

    first: np.ndarray
    last: np.ndarray
    image: int
    stride: float = 1.0
    whole: bool = False

    def __len__(self) -> int:
        return len(self.first)

    def at(self, index: np.ndarray) -> Span:
        """The spans of these pixels of the map; those outside it are padding and see nothing."""
        inside = (index >= 0) & (index < len(self))
        safe = np.clip(index, 0, len(self) - 1)
        first = np.where(inside, self.first[safe], NOTHING)
        return replace(self, first=first, last=np.where(inside, self.last[safe], -1))

    def strided(self, stride: float) -> Span:
        return replace(self, stride=stride)

    def size(self) -> int | None:
        """The receptive field: the widest span that lies within the image; none where there is no such span."""
        inside = (self.first > 0) & (self.last < self.image - 1) & (self.last >= 0)
        return int((self.last - self.first + 1)[inside].max()) if inside.any() and not self.whole else None


Field = tuple[Span, Span]


def field_of_image(height: int, width: int) -> Field:
    """Each pixel sees itself."""
    rows, columns = (Span(np.arange(side), np.arange(side), image=side) for side in (height, width))
    return rows, columns


def union(spans: Sequence[Span]) -> Span:
    """The hull of several maps' spans, a single pixel standing for all."""
    length = max(map(len, spans))
    spans = [s if len(s) == length else s.at(np.zeros(length, int)).strided(s.stride / length) for s in spans]
    first, last = spans[0].first, spans[0].last
    for span in spans[1:]:
        first, last = np.minimum(first, span.first), np.maximum(last, span.last)
    stride = min(span.stride for span in spans)
    return replace(spans[0], first=first, last=last, stride=stride, whole=any(span.whole for span in spans))


def windows(span: Span, out: int, kernel: int, stride: int, padding: int, dilation: int) -> Span:
    """Of a convolution or pooling."""
    starts = np.arange(out) * stride - padding
    return union([span.at(starts + tap * dilation) for tap in range(kernel)]).strided(span.stride * stride)


def scattered(span: Span, out: int, kernel: int, stride: int, padding: int, dilation: int) -> Span:
    """Of a transposed convolution: a pixel sees those that write to it."""
    pixels = np.arange(out) + padding
    seen = []
    for tap in range(kernel):
        source, rest = np.divmod(pixels - tap * dilation, stride)
        seen.append(span.at(np.where(rest == 0, source, -1)))
    return union(seen).strided(span.stride / stride)


def binned(span: Span, bins: int) -> Span:
    """Of adaptive pooling."""
    edges = [(i * len(span) // bins, -(-(i + 1) * len(span) // bins)) for i in range(bins)]
    first = np.array([span.first[a:b].min() for a, b in edges])
    last = np.array([span.last[a:b].max() for a, b in edges])
    return replace(span, first=first, last=last, stride=span.stride * len(span) / bins, whole=True)


def interpolated(span: Span, out: int, align_corners: bool) -> Span:
    """Of bilinear resizing: two neighbours, or the one that is hit exactly."""
    size, pixels = len(span), np.arange(out)
    if align_corners:
        place, unit = pixels * (size - 1), max(out - 1, 1)
    else:
        place, unit = np.clip((2 * pixels + 1) * size - out, 0, (size - 1) * 2 * out), 2 * out
    left, rest = np.divmod(place, unit)
    return union([span.at(left), span.at(np.where(rest > 0, left + 1, left))]).strided(_resized(span, out))


def _resized(span: Span, out: int) -> float:
    return max(1, round(span.stride * len(span) / out))


Rule = Callable[[Field, Sequence[int], Sequence[Any]], Field]


def _convolution(field: Field, shape: Sequence[int], args: Sequence[Any]) -> Field:
    weight, _, stride, padding, dilation, transposed = args[1:7]
    geometry = zip(weight.shape[2:], _pair(stride), _pair(padding), _pair(dilation), strict=True)
    move = scattered if transposed else windows
    rows, columns = (move(span, out, *g) for span, out, g in zip(field, shape[-2:], geometry, strict=True))
    return rows, columns


def _max_pool(field: Field, shape: Sequence[int], args: Sequence[Any]) -> Field:
    return _pooled(field, shape, *_filled(args[1:5], None, [], 0, 1))


def _average_pool(field: Field, shape: Sequence[int], args: Sequence[Any]) -> Field:
    kernel, stride, padding = _filled(args[1:4], None, [], 0)
    return _pooled(field, shape, kernel, stride, padding, 1)


def _pooled(field: Field, shape: Sequence[int], kernel: Any, stride: Any, padding: Any, dilation: Any) -> Field:
    geometry = zip(_pair(kernel), _pair(stride or kernel), _pair(padding), _pair(dilation), strict=True)
    rows, columns = (windows(span, out, *g) for span, out, g in zip(field, shape[-2:], geometry, strict=True))
    return rows, columns


def _adaptive(field: Field, shape: Sequence[int], _: Sequence[Any]) -> Field:
    return binned(field[0], shape[-2]), binned(field[1], shape[-1])


def _bilinear(field: Field, shape: Sequence[int], args: Sequence[Any]) -> Field:
    return interpolated(field[0], shape[-2], args[2]), interpolated(field[1], shape[-1], args[2])


def _unpool(field: Field, shape: Sequence[int], _: Sequence[Any]) -> Field:
    rows, columns = (
        span.at(np.arange(out) // math.ceil(out / len(span))).strided(_resized(span, out))
        for span, out in zip(field, shape[-2:], strict=True)
    )
    return rows, columns


def _pad(field: Field, shape: Sequence[int], args: Sequence[Any]) -> Field:
    left, top = args[1][0], args[1][2] if len(args[1]) > 2 else 0
    return field[0].at(np.arange(shape[-2]) - top), field[1].at(np.arange(shape[-1]) - left)


def _reflect(field: Field, shape: Sequence[int], args: Sequence[Any]) -> Field:
    rows, columns = (
        span.at((len(span) - 1) - np.abs((len(span) - 1) - np.abs(np.arange(out) - before)))
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
        return union([rows, _blank(rows, shape[-2])]), union([columns, _blank(columns, shape[-1])])
    raise AtrousError(f"A map of {len(rows)} x {len(columns)} became one of {shape[-2]} x {shape[-1]}.")


def _blank(like: Span, length: int) -> Span:
    return replace(like, first=np.full(length, NOTHING), last=np.full(length, -1), stride=like.stride / length)


RULES: dict[Any, Rule] = {
    aten.convolution: _convolution,
    aten.max_pool2d_with_indices: _max_pool,
    aten.avg_pool2d: _average_pool,
    aten._adaptive_avg_pool2d: _adaptive,
    aten.adaptive_max_pool2d: _adaptive,
    aten.upsample_bilinear2d: _bilinear,
    aten.max_unpool2d: _unpool,
    aten.constant_pad_nd: _pad,
    aten.reflection_pad2d: _reflect,
    aten.slice: _slice,
    aten.mean: _reduce,
    aten.sum: _reduce,
    aten.amax: _reduce,
    aten.max: _reduce,
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

    def watch(self, image: Tensor) -> Tensor:
        """Let the pixels of this tensor be what fields are counted in."""
        self._fields[image] = field_of_image(*image.shape[-2:])
        return image

    def field(self, tensor: Tensor) -> Field | None:
        """Of a tensor seen in the pass; none where the image has no part in it."""
        return self._fields.get(tensor)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        inputs = _tensors(args)
        fields = [field for x in inputs if (field := self._fields.get(x)) is not None]
        sources = frozenset().union(*(self.sources.get(x, ()) for x in inputs))
        result = func(*args, **(kwargs or {}))
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
    return values * 2 if len(values) == 1 else values
