"""Rows in registers: widths of panels, and the arithmetic at every width against numpy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numba import njit

from atrous.crf.numba_backend.simd import (
    MAX_PANEL,
    fma,
    lane_count,
    lanes_max,
    lanes_of,
    lanes_sum,
    load,
    panel_width,
    prefetch,
    store,
)
from atrous.crf.numba_backend.simd_math import exp, log


@njit
def apply(rows: Any, out: Any, reduced: Any, lanes: Any) -> None:
    for row in range(rows.shape[0]):
        at = row * lane_count(lanes)
        prefetch(rows, at, lanes)
        x = load(rows, at, lanes)
        reduced[row, 0], reduced[row, 1] = lanes_sum(x), lanes_max(x)
        store(out, at, fma(x, x, log(exp(x))))


@pytest.mark.parametrize("width", [1, 8, 16, 24, 32])
def test_every_width(width: int) -> None:
    rows = np.random.default_rng(width).normal(size=(5, width)).astype(np.float32)
    out, reduced = np.empty_like(rows), np.empty((5, 2), np.float32)
    apply(rows, out, reduced, lanes_of(width))
    np.testing.assert_allclose(out, rows * rows + rows, atol=1e-6)
    np.testing.assert_allclose(reduced[:, 0], rows.sum(1), atol=1e-5)
    np.testing.assert_array_equal(reduced[:, 1], rows.max(1))


def test_panels_hold_all_classes_and_few_more() -> None:
    for classes in range(1, 200):
        panels, width = panel_width(classes)
        assert width % 8 == 0
        assert 8 <= width <= MAX_PANEL
        assert classes <= panels * width < classes + 8 * panels
        assert (panels - 1) * MAX_PANEL < classes
