"""Eight floats at a time: a vector type for functions compiled by numba.

Rows of class values are padded to a multiple of eight, and every inner loop of the CRF handles eight classes in one
value of this type. LLVM lowers it to one AVX register, to two SSE or NEON registers, or to whatever the machine has,
so these functions do not depend on what the auto-vectorizer can prove about aliasing.

    acc = broadcast(np.float32(0))
    acc = fma(broadcast(weight), load(rows, index), acc)
    store(rows, index, exp(acc))

`load` and `store` take a C-contiguous float32 array and an index into it as if it were flat; they do no bounds check.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

from llvmlite import ir  # type: ignore[import-untyped]
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic as _intrinsic
from numba.extending import lower_builtin, models, register_model, type_callable

LANES = 8
intrinsic: Any = _intrinsic  # for type checkers, which would expect the typing context as an argument of each call
_F32, _I32 = ir.FloatType(), ir.IntType(32)
_VECTOR, _INTEGERS = ir.VectorType(_F32, LANES), ir.VectorType(_I32, LANES)


class Float32x8(types.Type):
    """The numba type of eight float32 lanes."""

    def __init__(self) -> None:
        super().__init__(name="Float32x8")


float32x8 = Float32x8()


@register_model(Float32x8)
class _Model(models.PrimitiveModel):
    def __init__(self, dmm: Any, fe_type: Any) -> None:
        super().__init__(dmm, fe_type, _VECTOR)


def _constant(value: float) -> ir.Constant:
    return ir.Constant(_VECTOR, [value] * LANES)


def _integers(value: int) -> ir.Constant:
    return ir.Constant(_INTEGERS, [value] * LANES)


def _call(builder: ir.IRBuilder, name: str, *args: ir.Value) -> ir.Value:
    """Call the LLVM intrinsic `name`, overloaded on the vector type."""
    signature = ir.FunctionType(_VECTOR, [_VECTOR] * len(args))
    return builder.call(cgutils.get_or_insert_function(builder.module, signature, f"{name}.v{LANES}f32"), args)


def _fma(builder: ir.IRBuilder, a: ir.Value, b: ir.Value, c: ir.Value) -> ir.Value:
    return _call(builder, "llvm.fmuladd", a, b, c)


def _horner(builder: ir.IRBuilder, x: ir.Value, coefficients: list[float]) -> ir.Value:
    value: ir.Value = _constant(coefficients[0])
    for coefficient in coefficients[1:]:
        value = _fma(builder, value, x, _constant(coefficient))
    return value


def _address(context: Any, builder: ir.IRBuilder, array_type: Any, array: ir.Value, index: ir.Value) -> ir.Value:
    data = cgutils.create_struct_proxy(array_type)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [index]), _VECTOR.as_pointer())


def _is_rows(array: Any) -> bool:
    return isinstance(array, types.Array) and array.dtype == types.float32 and array.layout == "C"


@intrinsic
def load(typingctx: Any, rows: Any, index: Any) -> Any:
    """Read eight consecutive floats of `rows` from flat position `index`."""
    if not _is_rows(rows):
        return None

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.load(_address(context, builder, rows, args[0], args[1]), align=4)

    return float32x8(rows, types.int64), codegen


@intrinsic
def store(typingctx: Any, rows: Any, index: Any, value: Any) -> Any:
    """Write eight floats to `rows` from flat position `index`."""
    if not _is_rows(rows):
        return None

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        builder.store(args[2], _address(context, builder, rows, args[0], args[1]), align=4)
        return context.get_dummy_value()

    return types.void(rows, types.int64, float32x8), codegen


@intrinsic
def broadcast(typingctx: Any, value: Any) -> Any:
    """Copy one float to all eight lanes."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        one = builder.insert_element(ir.Constant(_VECTOR, ir.Undefined), args[0], _I32(0))
        return builder.shuffle_vector(one, ir.Constant(_VECTOR, ir.Undefined), _integers(0))

    return float32x8(types.float32), codegen


@intrinsic
def fma(typingctx: Any, a: Any, b: Any, c: Any) -> Any:
    """Compute a * b + c, fused where the machine has it."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return _fma(builder, *args)

    return float32x8(float32x8, float32x8, float32x8), codegen


@intrinsic
def maximum(typingctx: Any, a: Any, b: Any) -> Any:
    """Compute the larger of the two, lane by lane."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.select(builder.fcmp_ordered(">", *args), *args)

    return float32x8(float32x8, float32x8), codegen


@intrinsic
def nearest(typingctx: Any, x: Any) -> Any:
    """Round to the nearest integer, halves to even."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return _call(builder, "llvm.rint", args[0])

    return float32x8(float32x8), codegen


@intrinsic
def less(typingctx: Any, a: Any, b: Any) -> Any:
    """Compare lane by lane: 1.0 where a < b, else 0.0."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.select(builder.fcmp_ordered("<", *args), _constant(1.0), _constant(0.0))

    return float32x8(float32x8, float32x8), codegen


def _reduction(combine: Callable[[ir.IRBuilder, ir.Value, ir.Value], ir.Value]) -> Any:
    """Make an intrinsic that halves the vector until one lane is left."""

    def reduce(typingctx: Any, a: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            value, width = args[0], LANES
            while width > 1:
                width //= 2
                mask = ir.VectorType(_I32, width)
                low = builder.shuffle_vector(value, value, ir.Constant(mask, list(range(width))))
                high = builder.shuffle_vector(value, value, ir.Constant(mask, list(range(width, 2 * width))))
                value = combine(builder, low, high)
            return builder.extract_element(value, _I32(0))

        return types.float32(float32x8), codegen

    return intrinsic(reduce)


lanes_sum = _reduction(lambda builder, a, b: builder.fadd(a, b))
lanes_max = _reduction(lambda builder, a, b: builder.select(builder.fcmp_ordered(">", a, b), a, b))


@intrinsic
def exp(typingctx: Any, x: Any) -> Any:
    """Compute e^x, relative error below 2e-7; exactly 0 below -80, so that no denormal numbers arise; e^88 above 88.

    x = n ln 2 + r with |r| <= ln 2 / 2, ln 2 in two parts; e^r by the minimax polynomial of Cephes' `expf`.
    """

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kept = builder.fcmp_ordered(">", args[0], _constant(-80.0))
        x = builder.select(kept, args[0], _constant(-80.0))
        x = builder.select(builder.fcmp_ordered("<", x, _constant(88.0)), x, _constant(88.0))
        n = _call(builder, "llvm.rint", builder.fmul(x, _constant(1.4426950408889634)))
        r = _fma(builder, n, _constant(-0.693359375), x)
        r = _fma(builder, n, _constant(2.12194440054690583e-4), r)
        polynomial = _horner(
            builder,
            r,
            [1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1],
        )
        value = builder.fadd(_fma(builder, polynomial, builder.fmul(r, r), r), _constant(1.0))
        exponent = builder.add(builder.fptosi(n, _INTEGERS), _integers(127))
        value = builder.fmul(value, builder.bitcast(builder.shl(exponent, _integers(23)), _VECTOR))
        return builder.select(kept, value, _constant(0.0))

    return float32x8(float32x8), codegen


@intrinsic
def log(typingctx: Any, x: Any) -> Any:
    """Compute the natural logarithm of normal positive x; relative error below 2e-7 (Cephes' polynomial of `logf`)."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        bits = builder.bitcast(args[0], _INTEGERS)
        exponent = builder.sub(builder.lshr(bits, _integers(23)), _integers(126))
        mantissa_bits = builder.or_(builder.and_(bits, _integers(0x007FFFFF)), _integers(0x3F000000))
        m = builder.bitcast(mantissa_bits, _VECTOR)  # in [0.5, 1)
        small = builder.fcmp_ordered("<", m, _constant(0.707106781186547524))
        exponent = builder.select(small, builder.sub(exponent, _integers(1)), exponent)
        m = builder.fsub(builder.select(small, builder.fadd(m, m), m), _constant(1.0))
        n = builder.sitofp(exponent, _VECTOR)
        polynomial = _horner(
            builder,
            m,
            [
                7.0376836292e-2,
                -1.1514610310e-1,
                1.1676998740e-1,
                -1.2420140846e-1,
                1.4249322787e-1,
                -1.6668057665e-1,
                2.0000714765e-1,
                -2.4999993993e-1,
                3.3333331174e-1,
            ],
        )
        square = builder.fmul(m, m)
        y = builder.fmul(builder.fmul(polynomial, m), square)
        y = _fma(builder, n, _constant(-2.12194440e-4), y)
        y = _fma(builder, square, _constant(-0.5), y)
        return _fma(builder, n, _constant(0.693359375), builder.fadd(m, y))

    return float32x8(float32x8), codegen


def _binary(symbol: Callable[..., Any], instruction: str) -> None:
    """Define the operator `symbol` for two vectors as an LLVM instruction."""

    @type_callable(symbol)
    def typing(context: Any) -> Callable[[Any, Any], Any]:
        def resolve(a: Any, b: Any) -> Any:
            return float32x8 if isinstance(a, Float32x8) and isinstance(b, Float32x8) else None

        return resolve

    @lower_builtin(symbol, Float32x8, Float32x8)
    def lower(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return getattr(builder, instruction)(*args)


_binary(operator.add, "fadd")
_binary(operator.sub, "fsub")
_binary(operator.mul, "fmul")
