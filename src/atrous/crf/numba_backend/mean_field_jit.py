"""Compiled mean field: unaries in, messages and softmax in one pass over the pixels, marginals or labels out.

Class values lie in panels of eight, `(panels, pixels, 8)`; lanes without a class hold the logit `EMPTY_LANE`, whose
exponential is exactly zero. When classes are pruned, one lane stands for all of them together (see `mean_field`).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from atrous.crf.numba_backend.filter_jit import splat_and_blur
from atrous.crf.numba_backend.simd import LANES, broadcast, exp, fma, lanes_max, lanes_sum, load, log, maximum, store
from atrous.crf.numba_backend.threads import chunk_range, first_chunk, next_chunk, stage_barrier

EMPTY_LANE = np.float32(-1e30)
_ZERO, _ONE, _TINY = np.float32(0), np.float32(1), np.float32(1e-20)


@njit(cache=True, nogil=True, inline="always")
def _softmax(marginals: Any, pixel: Any) -> None:
    """Replace the logits of one pixel by their softmax over all panels."""
    panels, stride, at = marginals.shape[0], marginals.shape[1] * LANES, pixel * LANES
    peak = load(marginals, at)
    for panel in range(1, panels):
        peak = maximum(peak, load(marginals, at + panel * stride))
    top, total = broadcast(lanes_max(peak)), broadcast(_ZERO)
    for panel in range(panels):
        value = exp(load(marginals, at + panel * stride) - top)
        store(marginals, at + panel * stride, value)
        total = total + value
    factor = broadcast(_ONE / lanes_sum(total))
    for panel in range(panels):
        store(marginals, at + panel * stride, load(marginals, at + panel * stride) * factor)


@njit(cache=True, nogil=True)
def _initialize(logits: Any, marginals: Any, pixel: Any) -> None:
    """Set the marginals of one pixel to softmax(logits), where mean field starts."""
    for panel in range(logits.shape[0]):
        at = (panel * logits.shape[1] + pixel) * LANES
        store(marginals, at, load(logits, at))
    _softmax(marginals, pixel)


@njit(cache=True, nogil=True)
def initialize_from_probabilities(
    counters: Any, chunks: Any, probabilities: Any, pixels: Any, kept: Any, pruned: Any, min_probability: Any,
    logits: Any, marginals: Any,
) -> None:  # fmt: skip
    """Fill the logits from probabilities: log max(p, min_probability) of kept classes, then of the pruned ones' sum.

    Shape: probabilities (classes, all pixels); `pixels`: the indices of those that take part, in the panels' order.
    """
    chunk = first_chunk(counters, 0)
    while chunk < chunks:
        low, high = chunk_range(pixels.size, chunk, chunks)
        for i in range(low, high):
            pixel = np.int64(pixels[i])
            for k in range(kept.size):
                logits[k // LANES, i, k % LANES] = max(probabilities[kept[k], pixel], min_probability)
            if pruned.size:
                rest = _ZERO
                for k in range(pruned.size):
                    rest += max(probabilities[pruned[k], pixel], min_probability)
                logits[kept.size // LANES, i, kept.size % LANES] = rest
            for panel in range(logits.shape[0]):
                at = (panel * pixels.size + i) * LANES
                store(logits, at, log(maximum(load(logits, at), broadcast(_TINY))))
            for k in range(kept.size + min(1, pruned.size), logits.shape[0] * LANES):
                logits[k // LANES, i, k % LANES] = EMPTY_LANE
            _initialize(logits, marginals, i)
        chunk = next_chunk(counters, 0)
    stage_barrier(counters, 0, chunks)


@njit(cache=True, nogil=True)
def initialize_from_energies(
    counters: Any, chunks: Any, energies: Any, pixels: Any, logits: Any, marginals: Any
) -> None:
    """Fill the logits from energies (classes, all pixels), with the sign changed."""
    chunk = first_chunk(counters, 0)
    while chunk < chunks:
        low, high = chunk_range(pixels.size, chunk, chunks)
        for i in range(low, high):
            for k in range(logits.shape[0] * LANES):
                value = -energies[k, pixels[i]] if k < energies.shape[0] else EMPTY_LANE
                logits[k // LANES, i, k % LANES] = value
            _initialize(logits, marginals, i)
        chunk = next_chunk(counters, 0)
    stage_barrier(counters, 0, chunks)


@njit(cache=True, nogil=True)
def update_chunk(
    corner_rows: Any, slice_weights: Any, vertex_values: Any, logits: Any, marginals: Any, panel: Any,
    low: Any, high: Any, with_divergence: Any,
) -> Any:  # fmt: skip
    """Slice the messages of pixels low..high and add the logits; after the last panel, take the softmax over all.

    Returns, if `with_divergence`, sum q (log q - logits - messages) of the marginals that the messages came from.
    """
    pixels, last = marginals.shape[1], panel == marginals.shape[0] - 1
    terms = 0.0
    for pixel in range(low, high):
        at = (panel * pixels + pixel) * LANES
        total = load(logits, at)
        for e in range(corner_rows.shape[1]):
            value = load(vertex_values, np.int64(corner_rows[pixel, e]) * LANES)
            total = fma(broadcast(slice_weights[pixel, e]), value, total)
        if with_divergence:
            q = load(marginals, at)
            terms += lanes_sum(q * (log(maximum(q, broadcast(_TINY))) - total))
        store(marginals, at, total)
        if last:
            _softmax(marginals, pixel)
    return terms


@njit(cache=True, nogil=True)
def _mix_classes(marginals: Any, matrix: Any, out: Any, low: Any, high: Any) -> None:
    """Multiply the marginals of pixels low..high by a compatibility matrix: out[., a] = sum_b marginals[., b] m[b, a].

    `matrix` (8 panels, panels, 8) is padded with zeros.
    """
    panels, pixels = marginals.shape[0], marginals.shape[1]
    for pixel in range(low, high):
        for panel in range(panels):
            total = broadcast(_ZERO)
            for k in range(panels * LANES):
                q = broadcast(marginals[k // LANES, pixel, k % LANES])
                total = fma(q, load(matrix, (k * panels + panel) * LANES), total)
            store(out, (panel * pixels + pixel) * LANES, total)


@njit(cache=True, nogil=True)
def update(
    counters: Any, chunks: Any, steps: Any, lattice: Any, splat_weights: Any, slice_weights: Any, class_weights: Any,
    source_index: Any, matrices: Any, logits: Any, panels: Any, vertex_values: Any, divergence: Any,
) -> None:  # fmt: skip
    """Update the marginals, `panels[0]`, for `steps` mean-field iterations.

    `panels[1:]` are the marginals mixed by each of the compatibility matrices `matrices`. Stages of a step: one for
    each matrix, and for each panel 5 and one for each axis. Unless `divergence` (steps, chunks) is empty, the summands
    of the divergence of the marginals before each step are written there.
    """
    marginals, pixels, axes = panels[0], panels.shape[2], lattice[6].size - 1
    stage = 0
    for step in range(steps):
        for m in range(matrices.shape[0]):
            chunk = first_chunk(counters, stage)
            while chunk < chunks:
                low, high = chunk_range(pixels, chunk, chunks)
                _mix_classes(marginals, matrices[m], panels[1 + m], low, high)
                chunk = next_chunk(counters, stage)
            stage = stage_barrier(counters, stage, chunks)
        for panel in range(panels.shape[1]):
            if axes:
                stage = splat_and_blur(
                    counters, stage, chunks, lattice, splat_weights, class_weights, source_index,
                    panels, panel, False, vertex_values,
                )  # fmt: skip
            chunk = first_chunk(counters, stage)
            while chunk < chunks:
                low, high = chunk_range(pixels, chunk, chunks)
                terms = update_chunk(
                    lattice[0], slice_weights, vertex_values, logits, marginals, panel, low, high, divergence.size > 0
                )
                if divergence.size:
                    divergence[step, chunk] += terms
                chunk = next_chunk(counters, stage)
            stage = stage_barrier(counters, stage, chunks)


@njit(cache=True, nogil=True, inline="always")
def _pruned_share(
    marginals: Any, i: Any, rest: Any, probabilities: Any, pruned: Any, pixel: Any, min_probability: Any
) -> Any:
    """Return the factor from the probability of a pruned class to its marginal."""
    total = _ZERO
    for k in range(pruned.size):
        total += max(probabilities[pruned[k], pixel], min_probability)
    return marginals[rest // LANES, i, rest % LANES] / total


@njit(cache=True, nogil=True)
def write_marginals(
    counters: Any, chunks: Any, marginals: Any, probabilities: Any, pixels: Any,
    kept: Any, pruned: Any, min_probability: Any, out: Any,
) -> None:  # fmt: skip
    """Write the marginals to `out` (classes, all pixels), whose other pixels stay as they are."""
    chunk = first_chunk(counters, 0)
    while chunk < chunks:
        low, high = chunk_range(pixels.size, chunk, chunks)
        for i in range(low, high):
            pixel = np.int64(pixels[i])
            for k in range(kept.size):
                out[kept[k], pixel] = marginals[k // LANES, i, k % LANES]
            if pruned.size:
                share = _pruned_share(marginals, i, kept.size, probabilities, pruned, pixel, min_probability)
                for k in range(pruned.size):
                    out[pruned[k], pixel] = max(probabilities[pruned[k], pixel], min_probability) * share
        chunk = next_chunk(counters, 0)
    stage_barrier(counters, 0, chunks)


@njit(cache=True, nogil=True)
def write_labels(
    counters: Any, chunks: Any, marginals: Any, probabilities: Any, pixels: Any,
    kept: Any, pruned: Any, min_probability: Any, out: Any,
) -> None:  # fmt: skip
    """Write the most probable class of each pixel, the first of equals, to `out` (all pixels,)."""
    chunk = first_chunk(counters, 0)
    while chunk < chunks:
        low, high = chunk_range(pixels.size, chunk, chunks)
        for i in range(low, high):
            pixel = np.int64(pixels[i])
            best, label = np.float32(-1), 0
            for k in range(kept.size):
                value = marginals[k // LANES, i, k % LANES]
                if value > best:
                    best, label = value, kept[k]
            if pruned.size and marginals[kept.size // LANES, i, kept.size % LANES] >= best:
                share = _pruned_share(marginals, i, kept.size, probabilities, pruned, pixel, min_probability)
                for k in range(pruned.size):
                    value = max(probabilities[pruned[k], pixel], min_probability) * share
                    if value > best or (value == best and pruned[k] < label):
                        best, label = value, pruned[k]
            out[pixel] = label
        chunk = next_chunk(counters, 0)
    stage_barrier(counters, 0, chunks)
