"""Compiled mean field: unaries in, messages and softmax in one pass over the pixels, marginals or labels out.

Class values lie in panels of up to 32, `(panels, pixels, lanes)`; lanes without a class hold the logit `EMPTY_LANE`,
whose exponential is exactly zero. When classes are pruned, one lane stands for all of them together (see `mean_field`).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from atrous.crf.numba_backend.filter_jit import prefetch_corners, splat_and_blur
from atrous.crf.numba_backend.simd import broadcast, fma, lane_count, lanes_max, lanes_sum, load, maximum, store
from atrous.crf.numba_backend.simd_math import exp, log
from atrous.crf.numba_backend.threads import chunk_range, first_chunk, next_chunk, stage_barrier

EMPTY_LANE = np.float32(-1e30)
BLOCK = 64  # pixels whose rows stay in the first cache while the planes of all classes are read or written
_ZERO, _ONE, _TINY = np.float32(0), np.float32(1), np.float32(1e-20)


@njit(cache=True, nogil=True, inline="always")
def _softmax(marginals: Any, pixel: Any, lanes: Any) -> None:
    """Replace the logits of one pixel by their softmax over all panels."""
    panels, stride, at = marginals.shape[0], marginals.shape[1] * lane_count(lanes), pixel * lane_count(lanes)
    peak = load(marginals, at, lanes)
    for panel in range(1, panels):
        peak = maximum(peak, load(marginals, at + panel * stride, lanes))
    top, total = broadcast(lanes_max(peak), lanes), broadcast(_ZERO, lanes)
    for panel in range(panels):
        value = exp(load(marginals, at + panel * stride, lanes) - top)
        store(marginals, at + panel * stride, value)
        total = total + value
    factor = broadcast(_ONE / lanes_sum(total), lanes)
    for panel in range(panels):
        store(marginals, at + panel * stride, load(marginals, at + panel * stride, lanes) * factor)


@njit(cache=True, nogil=True)
def _initialize(logits: Any, marginals: Any, pixel: Any, lanes: Any) -> None:
    """Set the marginals of one pixel to softmax(logits), where mean field starts."""
    for panel in range(logits.shape[0]):
        at = (panel * logits.shape[1] + pixel) * lane_count(lanes)
        store(marginals, at, load(logits, at, lanes))
    _softmax(marginals, pixel, lanes)


@njit(cache=True, nogil=True)
def _initialize_block(
    probabilities: Any, pixels: Any, kept: Any, pruned: Any, min_probability: Any, logits: Any, marginals: Any,
    lanes: Any, low: Any, high: Any,
) -> None:  # fmt: skip
    """Initialize pixels low..high, class by class, so that each plane of the probabilities is read in order."""
    width, used = lane_count(lanes), kept.size + min(1, pruned.size)
    for k in range(kept.size):
        for i in range(low, high):
            logits[k // width, i, k % width] = max(probabilities[kept[k], pixels[i]], min_probability)
    for k in range(kept.size, logits.shape[0] * width):
        for i in range(low, high):
            logits[k // width, i, k % width] = 0
    for k in range(pruned.size):
        for i in range(low, high):
            value = max(probabilities[pruned[k], pixels[i]], min_probability)
            logits[kept.size // width, i, kept.size % width] += value
    for panel in range(logits.shape[0]):
        for i in range(low, high):
            at = (panel * pixels.size + i) * width
            store(logits, at, log(maximum(load(logits, at, lanes), broadcast(_TINY, lanes))))
    for k in range(used, logits.shape[0] * width):
        for i in range(low, high):
            logits[k // width, i, k % width] = EMPTY_LANE
    for i in range(low, high):
        _initialize(logits, marginals, i, lanes)


@njit(cache=True, nogil=True)
def initialize_from_probabilities(
    counters: Any, chunks: Any, probabilities: Any, pixels: Any, kept: Any, pruned: Any, min_probability: Any,
    logits: Any, marginals: Any, lanes: Any,
) -> None:  # fmt: skip
    """Fill the logits from probabilities: log max(p, min_probability) of kept classes, then of the pruned ones' sum.

    The marginals become their softmax, where mean field starts. Shape: probabilities (classes, all pixels); `pixels`:
    the indices of those that take part, in the panels' order.
    """
    chunk = first_chunk(counters, 0)
    while chunk < chunks:
        start, stop = chunk_range(pixels.size, chunk, chunks)
        for low in range(start, stop, BLOCK):
            _initialize_block(
                probabilities, pixels, kept, pruned, min_probability, logits, marginals, lanes,
                low, min(stop, low + BLOCK),
            )  # fmt: skip
        chunk = next_chunk(counters, 0)
    stage_barrier(counters, 0, chunks)


@njit(cache=True, nogil=True)
def initialize_from_energies(
    counters: Any, chunks: Any, energies: Any, pixels: Any, logits: Any, marginals: Any, lanes: Any
) -> None:
    """Fill the logits from energies (classes, all pixels), with the sign changed."""
    width = lane_count(lanes)
    chunk = first_chunk(counters, 0)
    while chunk < chunks:
        low, high = chunk_range(pixels.size, chunk, chunks)
        for i in range(low, high):
            for k in range(logits.shape[0] * width):
                value = -energies[k, pixels[i]] if k < energies.shape[0] else EMPTY_LANE
                logits[k // width, i, k % width] = value
            _initialize(logits, marginals, i, lanes)
        chunk = next_chunk(counters, 0)
    stage_barrier(counters, 0, chunks)


@njit(cache=True, nogil=True)
def update_chunk(
    corner_rows: Any, slice_weights: Any, vertex_values: Any, logits: Any, marginals: Any, panel: Any,
    low: Any, high: Any, with_divergence: Any, lanes: Any,
) -> Any:  # fmt: skip
    """Slice the messages of pixels low..high and add the logits; after the last panel, take the softmax over all.

    Returns, if `with_divergence`, sum q (log q - logits - messages) of the marginals that the messages came from.
    """
    pixels, last, width = marginals.shape[1], panel == marginals.shape[0] - 1, lane_count(lanes)
    terms = 0.0
    for pixel in range(low, high):
        prefetch_corners(corner_rows, pixel, vertex_values, lanes)
        at = (panel * pixels + pixel) * width
        total = load(logits, at, lanes)
        for e in range(corner_rows.shape[1]):
            value = load(vertex_values, np.int64(corner_rows[pixel, e]) * width, lanes)
            total = fma(broadcast(slice_weights[pixel, e], lanes), value, total)
        if with_divergence:
            q = load(marginals, at, lanes)
            terms += lanes_sum(q * (log(maximum(q, broadcast(_TINY, lanes))) - total))
        store(marginals, at, total)
        if last:
            _softmax(marginals, pixel, lanes)
    return terms


@njit(cache=True, nogil=True)
def _mix_classes(marginals: Any, matrix: Any, out: Any, low: Any, high: Any, lanes: Any) -> None:
    """Multiply the marginals of pixels low..high by a compatibility matrix: out[., a] = sum_b marginals[., b] m[b, a].

    `matrix` (panels * lanes, panels, lanes) is padded with zeros.
    """
    panels, pixels, width = marginals.shape[0], marginals.shape[1], lane_count(lanes)
    for pixel in range(low, high):
        for panel in range(panels):
            total = broadcast(_ZERO, lanes)
            for k in range(panels * width):
                q = broadcast(marginals[k // width, pixel, k % width], lanes)
                total = fma(q, load(matrix, (k * panels + panel) * width, lanes), total)
            store(out, (panel * pixels + pixel) * width, total)


@njit(cache=True, nogil=True)
def update(
    counters: Any, chunks: Any, steps: Any, lattice: Any, splat_weights: Any, slice_weights: Any, class_weights: Any,
    source_index: Any, matrices: Any, logits: Any, panels: Any, vertex_values: Any, lanes: Any, divergence: Any,
) -> None:  # fmt: skip
    """Update the marginals, `panels[0]`, for `steps` mean-field iterations.

    `panels[1:]` are the marginals mixed by each of the compatibility matrices `matrices`. Stages of a step: one for
    each matrix, and for each panel 5 and the rounds of the blur. Unless `divergence` (steps, chunks) is empty, the
    summands of the divergence of the marginals before each step are written there.
    """
    marginals, pixels, has_kernels = panels[0], panels.shape[2], lattice[1].size > 1
    stage = 0
    for step in range(steps):
        for m in range(matrices.shape[0]):
            chunk = first_chunk(counters, stage)
            while chunk < chunks:
                low, high = chunk_range(pixels, chunk, chunks)
                _mix_classes(marginals, matrices[m], panels[1 + m], low, high, lanes)
                chunk = next_chunk(counters, stage)
            stage = stage_barrier(counters, stage, chunks)
        for panel in range(panels.shape[1]):
            if has_kernels:
                stage = splat_and_blur(
                    counters, stage, chunks, lattice, splat_weights, class_weights, source_index,
                    panels, panel, False, vertex_values, lanes,
                )  # fmt: skip
            chunk = first_chunk(counters, stage)
            while chunk < chunks:
                low, high = chunk_range(pixels, chunk, chunks)
                terms = update_chunk(
                    lattice[0], slice_weights, vertex_values, logits, marginals, panel, low, high,
                    divergence.size > 0, lanes,
                )  # fmt: skip
                if divergence.size:
                    divergence[step, chunk] += terms
                chunk = next_chunk(counters, stage)
            stage = stage_barrier(counters, stage, chunks)


@njit(cache=True, nogil=True, inline="always")
def _pruned_share(
    marginals: Any, i: Any, rest: Any, probabilities: Any, pruned: Any, pixel: Any, min_probability: Any, lanes: Any
) -> Any:
    """Return the factor from the probability of a pruned class to its marginal."""
    total = _ZERO
    for k in range(pruned.size):
        total += max(probabilities[pruned[k], pixel], min_probability)
    return marginals[rest // lane_count(lanes), i, rest % lane_count(lanes)] / total


@njit(cache=True, nogil=True)
def _write_block(
    marginals: Any, probabilities: Any, pixels: Any, kept: Any, pruned: Any, min_probability: Any, lanes: Any, out: Any,
    low: Any, high: Any,
) -> None:  # fmt: skip
    """Write the marginals of pixels low..high, class by class."""
    width = lane_count(lanes)
    for k in range(kept.size):
        for i in range(low, high):
            out[kept[k], pixels[i]] = marginals[k // width, i, k % width]
    if pruned.size:
        shares = np.zeros(BLOCK, np.float32)
        for k in range(pruned.size):
            for i in range(low, high):
                shares[i - low] += max(probabilities[pruned[k], pixels[i]], min_probability)
        for i in range(low, high):
            shares[i - low] = marginals[kept.size // width, i, kept.size % width] / shares[i - low]
        for k in range(pruned.size):
            for i in range(low, high):
                value = max(probabilities[pruned[k], pixels[i]], min_probability)
                out[pruned[k], pixels[i]] = value * shares[i - low]


@njit(cache=True, nogil=True)
def write_marginals(
    counters: Any, chunks: Any, marginals: Any, probabilities: Any, pixels: Any,
    kept: Any, pruned: Any, min_probability: Any, lanes: Any, out: Any,
) -> None:  # fmt: skip
    """Write the marginals to `out` (classes, all pixels), whose other pixels stay as they are."""
    chunk = first_chunk(counters, 0)
    while chunk < chunks:
        start, stop = chunk_range(pixels.size, chunk, chunks)
        for low in range(start, stop, BLOCK):
            _write_block(
                marginals, probabilities, pixels, kept, pruned, min_probability, lanes, out, low, min(stop, low + BLOCK)
            )
        chunk = next_chunk(counters, 0)
    stage_barrier(counters, 0, chunks)


@njit(cache=True, nogil=True)
def write_labels(
    counters: Any, chunks: Any, marginals: Any, probabilities: Any, pixels: Any,
    kept: Any, pruned: Any, min_probability: Any, lanes: Any, out: Any,
) -> None:  # fmt: skip
    """Write the most probable class of each pixel, the first of equals, to `out` (all pixels,)."""
    width = lane_count(lanes)
    chunk = first_chunk(counters, 0)
    while chunk < chunks:
        low, high = chunk_range(pixels.size, chunk, chunks)
        for i in range(low, high):
            pixel = np.int64(pixels[i])
            best, label = np.float32(-1), 0
            for k in range(kept.size):
                value = marginals[k // width, i, k % width]
                if value > best:
                    best, label = value, kept[k]
            if pruned.size and marginals[kept.size // width, i, kept.size % width] >= best:
                share = _pruned_share(marginals, i, kept.size, probabilities, pruned, pixel, min_probability, lanes)
                for k in range(pruned.size):
                    value = max(probabilities[pruned[k], pixel], min_probability) * share
                    if value > best or (value == best and pruned[k] < label):
                        best, label = value, pruned[k]
            out[pixel] = label
        chunk = next_chunk(counters, 0)
    stage_barrier(counters, 0, chunks)
