"""Exponential and logarithm of the vectors of `simd`, by the polynomials of Cephes' `expf` and `logf`."""

from __future__ import annotations

from typing import Any

from llvmlite import ir  # type: ignore[import-untyped]

from atrous.crf.numba_backend.simd import call_vector, constant_like, fused, integers_like, intrinsic, mapped


def _horner(builder: ir.IRBuilder, x: ir.Value, coefficients: list[float]) -> ir.Value:
    value: ir.Value = constant_like(x, coefficients[0])
    for coefficient in coefficients[1:]:
        value = fused(builder, value, x, constant_like(x, coefficient))
    return value


@intrinsic
def exp(typingctx: Any, x: Any) -> Any:
    """Compute e^x, relative error below 2e-7; exactly 0 below -80, so that no denormal numbers arise; e^88 above 88.

    x = n ln 2 + r with |r| <= ln 2 / 2, ln 2 in two parts; e^r by the minimax polynomial of Cephes' `expf`.
    """

    def power(builder: Any, argument: Any) -> Any:
        def constant(value: float) -> Any:
            return constant_like(argument, value)

        kept = builder.fcmp_ordered(">", argument, constant(-80.0))
        x = builder.select(kept, argument, constant(-80.0))
        x = builder.select(builder.fcmp_ordered("<", x, constant(88.0)), x, constant(88.0))
        n = call_vector(builder, "llvm.rint", builder.fmul(x, constant(1.4426950408889634)))
        r = fused(builder, n, constant(-0.693359375), x)
        r = fused(builder, n, constant(2.12194440054690583e-4), r)
        polynomial = _horner(
            builder,
            r,
            [1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1],
        )
        value = builder.fadd(fused(builder, polynomial, builder.fmul(r, r), r), constant(1.0))
        bias = integers_like(x, 127)
        exponent = builder.add(builder.fptosi(n, bias.type), bias)
        value = builder.fmul(value, builder.bitcast(builder.shl(exponent, integers_like(x, 23)), x.type))
        return builder.select(kept, value, constant(0.0))

    return x(x), mapped(power)


@intrinsic
def log(typingctx: Any, x: Any) -> Any:
    """Compute the natural logarithm of normal positive x; relative error below 2e-7 (Cephes' polynomial of `logf`)."""

    def logarithm(builder: Any, x: Any) -> Any:
        def constant(value: float) -> Any:
            return constant_like(x, value)

        def integers(value: int) -> Any:
            return integers_like(x, value)

        bits = builder.bitcast(x, integers(0).type)
        exponent = builder.sub(builder.lshr(bits, integers(23)), integers(126))
        mantissa_bits = builder.or_(builder.and_(bits, integers(0x007FFFFF)), integers(0x3F000000))
        m = builder.bitcast(mantissa_bits, x.type)  # in [0.5, 1)
        small = builder.fcmp_ordered("<", m, constant(0.707106781186547524))
        exponent = builder.select(small, builder.sub(exponent, integers(1)), exponent)
        m = builder.fsub(builder.select(small, builder.fadd(m, m), m), constant(1.0))
        n = builder.sitofp(exponent, x.type)
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
        y = fused(builder, n, constant(-2.12194440e-4), y)
        y = fused(builder, square, constant(-0.5), y)
        return fused(builder, n, constant(0.693359375), builder.fadd(m, y))

    return x(x), mapped(logarithm)
