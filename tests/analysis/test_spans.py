"""Spans of receptive fields under single operations."""

from __future__ import annotations

import numpy as np

from atrous.analysis.spans import (
    EMPTY,
    Span,
    adaptive_pool,
    bilinear_resize,
    image_field,
    sliding_window,
    transposed_conv,
    union,
)


def spans(span: Span) -> list[tuple[int, int]]:
    return list(zip(span.first.tolist(), span.last.tolist(), strict=True))


def pixels(length: int) -> Span:
    return image_field(length, 1)[0]


def test_pixels_of_the_image_depend_on_themselves() -> None:
    assert spans(pixels(3)) == [(0, 0), (1, 1), (2, 2)]
    assert pixels(3).size() == 1


def test_a_dilated_convolution_covers_its_outer_taps_inside_the_image() -> None:
    out = sliding_window(pixels(7), 4, kernel=3, stride=2, padding=2, dilation=2)
    assert spans(out) == [(0, 2), (0, 4), (2, 6), (4, 6)]
    assert out.stride == 2


def test_a_transposed_convolution_depends_on_the_inputs_that_cover_it() -> None:
    out = transposed_conv(pixels(3), 6, kernel=4, stride=2, padding=1, dilation=1)
    assert spans(out) == [(0, 0), (0, 1), (0, 1), (1, 2), (1, 2), (2, 2)]
    assert out.stride == 0.5


def test_adaptive_pooling_has_no_finite_receptive_field() -> None:
    out = adaptive_pool(pixels(5), 2)
    assert spans(out) == [(0, 2), (2, 4)]
    assert out.is_global
    assert out.size() is None


def test_bilinear_resizing_depends_on_two_neighbors_or_on_the_one_it_hits() -> None:
    assert spans(bilinear_resize(pixels(2), 3, align_corners=True)) == [(0, 0), (0, 1), (1, 1)]
    assert spans(bilinear_resize(pixels(2), 4, align_corners=False)) == [(0, 0), (0, 1), (0, 1), (1, 1)]


def test_pixels_outside_the_map_are_empty_and_vanish_in_unions() -> None:
    outside = pixels(2).select(np.array([-1, 1]))
    assert spans(outside) == [(EMPTY, -1), (1, 1)]
    assert spans(union([outside, pixels(2)])) == [(0, 0), (1, 1)]


def test_the_size_is_that_of_the_widest_span_inside_the_image() -> None:
    assert sliding_window(pixels(9), 9, kernel=5, stride=1, padding=2, dilation=1).size() == 5
    assert sliding_window(pixels(5), 5, kernel=5, stride=1, padding=2, dilation=1).size() is None
