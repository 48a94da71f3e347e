"""Rows of floats in registers: a vector type for functions compiled by numba.

Rows of class values are padded to 8, 16, 24 or 32 floats, and the inner loops of the CRF handle a whole row in one
value of this type. LLVM lowers it to AVX, SSE or NEON registers, or to whatever the machine has, so these functions do
not depend on what the auto-vectorizer can prove about aliasing. The width is part of the type, so that a function is
compiled for each width it is used with; it follows from the *type* of the argument `lanes`, a tuple with one number for
every eight floats, or the empty tuple for a single one: see `lanes_of`.

    acc = broadcast(np.float32(0), lanes)
    acc = fma(broadcast(weight, lanes), load(rows, index, lanes), acc)
    store(rows, index, acc)

`exp` and `log` are in `simd_math`. `load` and `store` take a C-contiguous float32 array and an index into it as if it
were flat; they do no bounds check.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

from llvmlite import ir  # type: ignore[import-untyped]
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic as _intrinsic
from numba.extending import lower_builtin, models, register_model, type_callable

LANES = 8
EIGHT, ONE = (LANES,), ()
MAX_PANEL = 4 * LANES  # wider rows would need more registers than there are
intrinsic: Any = _intrinsic  # for type checkers, which would expect the typing context as an argument of each call
_F32, _I32 = ir.FloatType(), ir.IntType(32)


class Float32Vector(types.Type):
    """The numba type of `lanes` float32 values: one, or a multiple of eight."""

    def __init__(self, lanes: int) -> None:
        super().__init__(name=f"Float32x{lanes}")
        self.lanes = lanes

    @property
    def parts(self) -> list[ir.VectorType]:
        """The LLVM vectors that make up a value, of 16 floats (an AVX-512 register) and at the end of 8."""
        sizes = [16] * (self.lanes // 16) + [self.lanes % 16] * bool(self.lanes % 16)
        return [ir.VectorType(_F32, size) for size in sizes]


@register_model(Float32Vector)
class _Model(models.PrimitiveModel):
    def __init__(self, dmm: Any, fe_type: Any) -> None:
        super().__init__(dmm, fe_type, ir.LiteralStructType(fe_type.parts))


def lanes_of(width: int) -> tuple[int, ...]:
    """Return the argument `lanes` of the compiled functions for rows of `width` floats: 1 or a multiple of eight."""
    return (LANES,) * (width // LANES)


def panel_width(classes: int) -> tuple[int, int]:
    """Return the number of panels for a number of classes, and their width, with as few empty lanes as possible."""
    eights = -(-classes // LANES)
    panels = -(-eights * LANES // MAX_PANEL)
    return panels, -(-eights // panels) * LANES


@njit(cache=True, nogil=True, inline="always")
def lane_count(lanes: Any) -> Any:
    """Return the number of floats in a row; a constant to the compiler."""
    return LANES * len(lanes) if len(lanes) else 1


def _vector(lanes: Any) -> Float32Vector:
    return Float32Vector(LANES * len(lanes) or 1)


def constant_like(like: ir.Value, value: float) -> ir.Constant:
    """Make an LLVM vector as wide as `like` with the same float in every lane."""
    return ir.Constant(like.type, [value] * like.type.count)


def integers_like(like: ir.Value, value: int) -> ir.Constant:
    """Make an LLVM vector of 32-bit integers as wide as `like`, all the same."""
    return ir.Constant(ir.VectorType(_I32, like.type.count), [value] * like.type.count)


def call_vector(builder: ir.IRBuilder, name: str, *args: ir.Value) -> ir.Value:
    """Call the LLVM intrinsic `name`, overloaded on the vector type."""
    kind = args[0].type
    signature = ir.FunctionType(kind, [kind] * len(args))
    return builder.call(cgutils.get_or_insert_function(builder.module, signature, f"{name}.v{kind.count}f32"), args)


def fused(builder: ir.IRBuilder, a: ir.Value, b: ir.Value, c: ir.Value) -> ir.Value:
    """Compute a * b + c of LLVM vectors."""
    return call_vector(builder, "llvm.fmuladd", a, b, c)


def _joined(builder: ir.IRBuilder, parts: list[ir.Value]) -> ir.Value:
    """Make a value of the vector type from its LLVM vectors."""
    value: ir.Value = ir.Constant(ir.LiteralStructType([part.type for part in parts]), ir.Undefined)
    for i, part in enumerate(parts):
        value = builder.insert_value(value, part, i)
    return value


def _split(builder: ir.IRBuilder, value: ir.Value) -> list[ir.Value]:
    """Return the LLVM vectors of a value of the vector type."""
    return [builder.extract_value(value, i) for i in range(len(value.type.elements))]


def mapped(function: Callable[..., ir.Value]) -> Any:
    """Make the code of an intrinsic that applies `function(builder, *vectors)` to each LLVM vector of its arguments."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return _joined(
            builder, [function(builder, *each) for each in zip(*(_split(builder, a) for a in args), strict=True)]
        )

    return codegen


def _addresses(context: Any, builder: Any, array_type: Any, array: Any, index: Any, parts: Any) -> list[ir.Value]:
    """Return a pointer for each LLVM vector of a row that begins at a flat index."""
    address = builder.gep(cgutils.create_struct_proxy(array_type)(context, builder, array).data, [index])
    offsets = [16 * i for i in range(len(parts))]
    return [
        builder.bitcast(builder.gep(address, [ir.Constant(ir.IntType(64), offset)]), part.as_pointer())
        for offset, part in zip(offsets, parts, strict=True)
    ]


def _is_rows(array: Any) -> bool:
    return isinstance(array, types.Array) and array.dtype == types.float32 and array.layout == "C"


@intrinsic
def load(typingctx: Any, rows: Any, index: Any, lanes: Any) -> Any:
    """Read a row of `rows` from a flat position."""
    if not _is_rows(rows):
        return None
    vector = _vector(lanes)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        addresses = _addresses(context, builder, rows, args[0], args[1], vector.parts)
        return _joined(builder, [builder.load(address, align=4) for address in addresses])

    return vector(rows, types.int64, lanes), codegen


@intrinsic
def store(typingctx: Any, rows: Any, index: Any, value: Any) -> Any:
    """Write a row to `rows` from a flat position."""
    if not _is_rows(rows):
        return None

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        addresses = _addresses(context, builder, rows, args[0], args[1], value.parts)
        for part, address in zip(_split(builder, args[2]), addresses, strict=True):
            builder.store(part, address, align=4)
        return context.get_dummy_value()

    return types.void(rows, types.int64, value), codegen


@intrinsic
def prefetch(typingctx: Any, rows: Any, index: Any, lanes: Any) -> Any:
    """Ask the processor for the cache lines of a row that is soon needed, from a flat position."""
    width = _vector(lanes).lanes

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        data = cgutils.create_struct_proxy(rows)(context, builder, args[0]).data
        byte = ir.IntType(8).as_pointer()
        signature = ir.FunctionType(ir.VoidType(), [byte, _I32, _I32, _I32])
        function = cgutils.get_or_insert_function(builder.module, signature, "llvm.prefetch.p0")
        for offset in {0, *range(16, width, 16), width - 1}:
            at = builder.gep(data, [builder.add(args[1], ir.Constant(args[1].type, offset))])
            builder.call(function, [builder.bitcast(at, byte), _I32(0), _I32(3), _I32(1)])
        return context.get_dummy_value()

    return types.void(rows, types.int64, lanes), codegen


@intrinsic
def broadcast(typingctx: Any, value: Any, lanes: Any) -> Any:
    """Copy one float to all lanes."""
    vector = _vector(lanes)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        parts = []
        for part in vector.parts:
            one = builder.insert_element(ir.Constant(part, ir.Undefined), args[0], _I32(0))
            parts.append(builder.shuffle_vector(one, ir.Constant(part, ir.Undefined), integers_like(one, 0)))
        return _joined(builder, parts)

    return vector(types.float32, lanes), codegen


@intrinsic
def fma(typingctx: Any, a: Any, b: Any, c: Any) -> Any:
    """Compute a * b + c, fused where the machine has it."""
    return a(a, a, a), mapped(fused)


@intrinsic
def maximum(typingctx: Any, a: Any, b: Any) -> Any:
    """Compute the larger of the two, lane by lane."""
    return a(a, a), mapped(_larger)


@intrinsic
def nearest(typingctx: Any, x: Any) -> Any:
    """Round to the nearest integer, halves to even."""
    return x(x), mapped(lambda builder, x: call_vector(builder, "llvm.rint", x))


@intrinsic
def less(typingctx: Any, a: Any, b: Any) -> Any:
    """Compare lane by lane: 1.0 where a < b, else 0.0."""

    def compare(builder: Any, a: Any, b: Any) -> Any:
        return builder.select(builder.fcmp_ordered("<", a, b), constant_like(a, 1.0), constant_like(a, 0.0))

    return a(a, a), mapped(compare)


@intrinsic
def select_zero(typingctx: Any, x: Any, value: Any) -> Any:
    """Return `value` in the lanes where x is 0, and 0 in the others."""

    def choose(builder: Any, x: Any, value: Any) -> Any:
        return builder.select(builder.fcmp_ordered("==", x, constant_like(x, 0.0)), value, constant_like(x, 0.0))

    return x(x, x), mapped(choose)


def _larger(builder: ir.IRBuilder, a: ir.Value, b: ir.Value) -> ir.Value:
    return builder.select(builder.fcmp_ordered(">", a, b), a, b)


def _halves(builder: ir.IRBuilder, value: ir.Value) -> tuple[ir.Value, ir.Value]:
    half = value.type.count // 2
    masks = [ir.Constant(ir.VectorType(_I32, half), list(range(at, at + half))) for at in (0, half)]
    low, high = (builder.shuffle_vector(value, value, mask) for mask in masks)
    return low, high


def _reduction(combine: Callable[[ir.IRBuilder, ir.Value, ir.Value], ir.Value]) -> Any:
    """Make an intrinsic that combines the lanes of a vector, halving it until one is left."""

    def reduce(typingctx: Any, a: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            parts = _split(builder, args[0])
            while len(parts) > 1 or parts[0].type.count > 1:
                widest = max(part.type.count for part in parts)
                wide = [part for part in parts if part.type.count == widest]
                rest = [part for part in parts if part.type.count != widest]
                if len(wide) > 1:
                    parts = [combine(builder, wide[0], wide[1]), *wide[2:], *rest]
                else:
                    parts = [combine(builder, *_halves(builder, wide[0])), *rest]
            return builder.extract_element(parts[0], _I32(0))

        return types.float32(a), codegen

    return intrinsic(reduce)


lanes_sum = _reduction(lambda builder, a, b: builder.fadd(a, b))
lanes_max = _reduction(_larger)


def _binary(symbol: Callable[..., Any], instruction: str) -> None:
    """Define the operator `symbol` for two vectors as an LLVM instruction."""

    @type_callable(symbol)
    def typing(context: Any) -> Callable[[Any, Any], Any]:
        def resolve(a: Any, b: Any) -> Any:
            return a if isinstance(a, Float32Vector) and a == b else None

        return resolve

    @lower_builtin(symbol, Float32Vector, Float32Vector)
    def lower(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return mapped(lambda builder, a, b: getattr(builder, instruction)(a, b))(context, builder, signature, args)


_binary(operator.add, "fadd")
_binary(operator.sub, "fsub")
_binary(operator.mul, "fmul")
