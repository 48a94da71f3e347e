"""Numba kernels of the mean field: probabilities in, messages and soft-max in one pass, marginals or labels out.

Class values lie in panels of eight, `(panels, pixels, 8)`; lanes without a class hold the logit `NOTHING`, whose
exponential is exactly zero. When classes are pruned, one lane stands for all of them together (see `mean_field`).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from atrous.crf.numba_backend.filter_kernels import filtered_rows
from atrous.crf.numba_backend.simd import LANES, exp, fma, lanes_max, lanes_sum, load, log, maximum, splat, store
from atrous.crf.numba_backend.threads import first_part, next_part, next_stage

NOTHING = np.float32(-1e30)
_ZERO, _ONE, _TINY = np.float32(0), np.float32(1), np.float32(1e-20)


@njit(cache=True, nogil=True, inline="always")
def _softmax(marginals: Any, pixel: Any) -> None:
    panels, stride, at = marginals.shape[0], marginals.shape[1] * LANES, pixel * LANES
    peak = load(marginals, at)
    for panel in range(1, panels):
        peak = maximum(peak, load(marginals, at + panel * stride))
    top, total = splat(lanes_max(peak)), splat(_ZERO)
    for panel in range(panels):
        value = exp(load(marginals, at + panel * stride) - top)
        store(marginals, at + panel * stride, value)
        total = total + value
    factor = splat(_ONE / lanes_sum(total))
    for panel in range(panels):
        store(marginals, at + panel * stride, load(marginals, at + panel * stride) * factor)


@njit(cache=True, nogil=True)
def _start(logits: Any, marginals: Any, pixel: Any) -> None:
    """marginals = softmax(logits), the starting point."""
    for panel in range(logits.shape[0]):
        at = (panel * logits.shape[1] + pixel) * LANES
        store(marginals, at, load(logits, at))
    _softmax(marginals, pixel)


@njit(cache=True, nogil=True)
def start_from_probabilities(
    counters: Any, parts: Any, probabilities: Any, pixels: Any, kept: Any, pruned: Any, floor: Any,
    logits: Any, marginals: Any,
) -> None:  # fmt: skip
    """logits[panel, i, lane] = log max(p, floor) of the kept classes, then of the sum over the pruned ones.

    `probabilities` (classes, all pixels); `pixels` says which of them take part, in the order of the panels.
    """
    part = first_part(counters, 0)
    while part < parts:
        for i in range(pixels.size * part // parts, pixels.size * (part + 1) // parts):
            pixel = np.int64(pixels[i])
            for k in range(kept.size):
                logits[k // LANES, i, k % LANES] = max(probabilities[kept[k], pixel], floor)
            if pruned.size:
                rest = _ZERO
                for k in range(pruned.size):
                    rest += max(probabilities[pruned[k], pixel], floor)
                logits[kept.size // LANES, i, kept.size % LANES] = rest
            for panel in range(logits.shape[0]):
                at = (panel * pixels.size + i) * LANES
                store(logits, at, log(maximum(load(logits, at), splat(_TINY))))
            for k in range(kept.size + min(1, pruned.size), logits.shape[0] * LANES):
                logits[k // LANES, i, k % LANES] = NOTHING
            _start(logits, marginals, i)
        part = next_part(counters, 0)
    next_stage(counters, 0, parts)


@njit(cache=True, nogil=True)
def start_from_energies(counters: Any, parts: Any, energies: Any, pixels: Any, logits: Any, marginals: Any) -> None:
    """logits[panel, i, lane] = -energy of each class (classes, all pixels)."""
    part = first_part(counters, 0)
    while part < parts:
        for i in range(pixels.size * part // parts, pixels.size * (part + 1) // parts):
            for k in range(logits.shape[0] * LANES):
                value = -energies[k, pixels[i]] if k < energies.shape[0] else NOTHING
                logits[k // LANES, i, k % LANES] = value
            _start(logits, marginals, i)
        part = next_part(counters, 0)
    next_stage(counters, 0, parts)


@njit(cache=True, nogil=True)
def update_part(
    offsets: Any, weights: Any, rows: Any, logits: Any, marginals: Any, panel: Any, low: Any, high: Any, diverging: Any
) -> Any:
    """marginals[panel] = logits + sliced messages; after the last panel, the soft-max over all of them.

    Returns, if `diverging`, sum q (log q - logits - messages) of the marginals that the messages came from.
    """
    pixels, last = marginals.shape[1], panel == marginals.shape[0] - 1
    terms = 0.0
    for pixel in range(low, high):
        at = (panel * pixels + pixel) * LANES
        total = load(logits, at)
        for e in range(offsets.shape[1]):
            total = fma(splat(weights[pixel, e]), load(rows, np.int64(offsets[pixel, e]) * LANES), total)
        if diverging:
            q = load(marginals, at)
            terms += lanes_sum(q * (log(maximum(q, splat(_TINY))) - total))
        store(marginals, at, total)
        if last:
            _softmax(marginals, pixel)
    return terms


@njit(cache=True, nogil=True)
def _mix_part(marginals: Any, matrix: Any, out: Any, low: Any, high: Any) -> None:
    """out[., b'] = sum_b marginals[., b] matrix[b, b']; `matrix` (8 panels, panels, 8) is padded with zeros."""
    panels, pixels = marginals.shape[0], marginals.shape[1]
    for pixel in range(low, high):
        for panel in range(panels):
            total = splat(_ZERO)
            for k in range(panels * LANES):
                q = splat(marginals[k // LANES, pixel, k % LANES])
                total = fma(q, load(matrix, (k * panels + panel) * LANES), total)
            store(out, (panel * pixels + pixel) * LANES, total)


@njit(cache=True, nogil=True)
def update(
    counters: Any, parts: Any, steps: Any, lattice: Any, splat_weights: Any, slice_weights: Any, send: Any,
    source_of: Any, matrices: Any, logits: Any, panels: Any, rows: Any, divergence: Any,
) -> None:  # fmt: skip
    """So many mean-field updates of `panels[0]`; `panels[1:]` are the marginals mixed by each of `matrices`.

    Stages of a step: one for each matrix, and for each panel 5 and one for each axis. Where `divergence` (steps, parts)
    has any length, the divergence of the marginals before each step is left there, in terms.
    """
    marginals, pixels, axes = panels[0], panels.shape[2], lattice[6].size - 1
    stage = 0
    for step in range(steps):
        for m in range(matrices.shape[0]):
            part = first_part(counters, stage)
            while part < parts:
                low, high = pixels * part // parts, pixels * (part + 1) // parts
                _mix_part(marginals, matrices[m], panels[1 + m], low, high)
                part = next_part(counters, stage)
            stage = next_stage(counters, stage, parts)
        for panel in range(panels.shape[1]):
            if axes:
                stage = filtered_rows(
                    counters, stage, parts, lattice, splat_weights, send, source_of, panels, panel, False, rows
                )
            part = first_part(counters, stage)
            while part < parts:
                low, high = pixels * part // parts, pixels * (part + 1) // parts
                terms = update_part(
                    lattice[0], slice_weights, rows, logits, marginals, panel, low, high, divergence.size > 0
                )
                if divergence.size:
                    divergence[step, part] += terms
                part = next_part(counters, stage)
            stage = next_stage(counters, stage, parts)


@njit(cache=True, nogil=True, inline="always")
def _pruned_share(marginals: Any, i: Any, rest: Any, probabilities: Any, pruned: Any, pixel: Any, floor: Any) -> Any:
    """What multiplies the probability of a pruned class to give its marginal."""
    total = _ZERO
    for k in range(pruned.size):
        total += max(probabilities[pruned[k], pixel], floor)
    return marginals[rest // LANES, i, rest % LANES] / total


@njit(cache=True, nogil=True)
def write_marginals(
    counters: Any, parts: Any, marginals: Any, probabilities: Any, pixels: Any,
    kept: Any, pruned: Any, floor: Any, out: Any,
) -> None:  # fmt: skip
    """Marginals back to (classes, all pixels); pixels that take no part are left as they are in `out`."""
    part = first_part(counters, 0)
    while part < parts:
        for i in range(pixels.size * part // parts, pixels.size * (part + 1) // parts):
            pixel = np.int64(pixels[i])
            for k in range(kept.size):
                out[kept[k], pixel] = marginals[k // LANES, i, k % LANES]
            if pruned.size:
                share = _pruned_share(marginals, i, kept.size, probabilities, pruned, pixel, floor)
                for k in range(pruned.size):
                    out[pruned[k], pixel] = max(probabilities[pruned[k], pixel], floor) * share
        part = next_part(counters, 0)
    next_stage(counters, 0, parts)


@njit(cache=True, nogil=True)
def write_labels(
    counters: Any, parts: Any, marginals: Any, probabilities: Any, pixels: Any,
    kept: Any, pruned: Any, floor: Any, out: Any,
) -> None:  # fmt: skip
    """The most probable class of each pixel, the first of equals, without writing the marginals out."""
    part = first_part(counters, 0)
    while part < parts:
        for i in range(pixels.size * part // parts, pixels.size * (part + 1) // parts):
            pixel = np.int64(pixels[i])
            best, label = np.float32(-1), 0
            for k in range(kept.size):
                value = marginals[k // LANES, i, k % LANES]
                if value > best:
                    best, label = value, kept[k]
            if pruned.size and marginals[kept.size // LANES, i, kept.size % LANES] >= best:
                share = _pruned_share(marginals, i, kept.size, probabilities, pruned, pixel, floor)
                for k in range(pruned.size):
                    value = max(probabilities[pruned[k], pixel], floor) * share
                    if value > best or (value == best and pruned[k] < label):
                        best, label = value, pruned[k]
            out[pixel] = label
        part = next_part(counters, 0)
    next_stage(counters, 0, parts)
