"""Numba kernels of the mean field: probabilities in, messages and soft-max in one pass, marginals or labels out.

Class values lie in panels of eight, `(panels, pixels, 8)`; lanes without a class hold the logit `NOTHING`, whose
exponential is exactly zero. When classes are pruned, one lane stands for all of them together (see `mean_field`).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit, prange

from atrous.crf.simd import LANES, exp, fma, lanes_max, lanes_sum, load, log, maximum, splat, store

NOTHING = np.float32(-1e30)
_ZERO, _ONE, _TINY = np.float32(0), np.float32(1), np.float32(1e-20)


@njit(cache=True, parallel=True, nogil=True)
def logits_from_probabilities(
    probabilities: Any, pixels: Any, kept: Any, pruned: Any, floor: Any, logits: Any, parts: Any
) -> None:
    """logits[panel, i, lane] = log max(p, floor) of the kept classes, then of the sum over the pruned ones.

    `probabilities` (classes, all pixels); `pixels` says which of them take part, in the order of the panels.
    """
    for part in prange(parts):
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


@njit(cache=True, parallel=True, nogil=True)
def logits_from_energies(energies: Any, pixels: Any, logits: Any, parts: Any) -> None:
    """logits[panel, i, lane] = -energy of each class (classes, all pixels)."""
    for part in prange(parts):
        for i in range(pixels.size * part // parts, pixels.size * (part + 1) // parts):
            for k in range(logits.shape[0] * LANES):
                value = -energies[k, pixels[i]] if k < energies.shape[0] else NOTHING
                logits[k // LANES, i, k % LANES] = value


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


@njit(cache=True, parallel=True, nogil=True)
def update_panel(
    offsets: Any, weights: Any, rows: Any, logits: Any, marginals: Any, panel: Any, first: bool, divergence: Any
) -> None:
    """marginals[panel] = logits + sliced messages; after the last panel, the soft-max over all of them.

    `first` leaves the messages out: the starting point. Where `divergence` has length (one entry per part of the
    pixels), sum q (log q - logits - messages) of the marginals that the messages came from is added to it.
    """
    pixels = marginals.shape[1]
    parts, last = max(64, divergence.size), panel == marginals.shape[0] - 1
    corners = 0 if first else offsets.shape[1]
    for part in prange(parts):
        terms = 0.0
        for pixel in range(pixels * part // parts, pixels * (part + 1) // parts):
            at = (panel * pixels + pixel) * LANES
            total = load(logits, at)
            for e in range(corners):
                total = fma(splat(weights[pixel, e]), load(rows, np.int64(offsets[pixel, e]) * LANES), total)
            if divergence.size:
                q = load(marginals, at)
                terms += lanes_sum(q * (log(maximum(q, splat(_TINY))) - total))
            store(marginals, at, total)
            if last:
                _softmax(marginals, pixel)
        if divergence.size:
            divergence[part] += terms


@njit(cache=True, parallel=True, nogil=True)
def mix_classes(marginals: Any, matrix: Any, out: Any) -> None:
    """out[., b'] = sum_b marginals[., b] matrix[b, b']; `matrix` (8 panels, panels, 8) is padded with zeros."""
    panels, pixels = marginals.shape[0], marginals.shape[1]
    for pixel in prange(pixels):
        for panel in range(panels):
            total = splat(_ZERO)
            for k in range(panels * LANES):
                q = splat(marginals[k // LANES, pixel, k % LANES])
                total = fma(q, load(matrix, (k * panels + panel) * LANES), total)
            store(out, (panel * pixels + pixel) * LANES, total)


@njit(cache=True, nogil=True, inline="always")
def _pruned_share(marginals: Any, i: Any, rest: Any, probabilities: Any, pruned: Any, pixel: Any, floor: Any) -> Any:
    """What multiplies the probability of a pruned class to give its marginal."""
    total = _ZERO
    for k in range(pruned.size):
        total += max(probabilities[pruned[k], pixel], floor)
    return marginals[rest // LANES, i, rest % LANES] / total


@njit(cache=True, parallel=True, nogil=True)
def write_marginals(
    marginals: Any, probabilities: Any, pixels: Any, kept: Any, pruned: Any, floor: Any, out: Any, parts: Any
) -> None:
    """Marginals back to (classes, all pixels); pixels that take no part are left as they are in `out`."""
    for part in prange(parts):
        for i in range(pixels.size * part // parts, pixels.size * (part + 1) // parts):
            pixel = np.int64(pixels[i])
            for k in range(kept.size):
                out[kept[k], pixel] = marginals[k // LANES, i, k % LANES]
            if pruned.size:
                share = _pruned_share(marginals, i, kept.size, probabilities, pruned, pixel, floor)
                for k in range(pruned.size):
                    out[pruned[k], pixel] = max(probabilities[pruned[k], pixel], floor) * share


@njit(cache=True, parallel=True, nogil=True)
def write_labels(
    marginals: Any, probabilities: Any, pixels: Any, kept: Any, pruned: Any, floor: Any, out: Any, parts: Any
) -> None:
    """The most probable class of each pixel, the first of equals, without writing the marginals out."""
    for part in prange(parts):
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


@njit(cache=True, parallel=True, nogil=True)
def largest_change(before: Any, after: Any, parts: Any) -> Any:
    """max |after - before| over two flat arrays."""
    worst = np.zeros(parts, np.float32)
    for part in prange(parts):
        most = _ZERO
        for i in range(before.size * part // parts, before.size * (part + 1) // parts):
            most = max(most, abs(after[i] - before[i]))
        worst[part] = most
    return worst.max()
