"""Max pooling with Caffe's rounding."""

from __future__ import annotations

import pytest
import torch

from atrous.layers.pool import CeilMaxPool2d


@pytest.mark.parametrize(("kernel_size", "sizes"), [(1, {8: 4, 9: 5}), (2, {8: 4, 9: 5}), (3, {8: 5, 9: 5})])
def test_output_sizes_round_up(kernel_size: int, sizes: dict[int, int]) -> None:
    pool = CeilMaxPool2d(kernel_size)
    assert {size: pool(torch.randn(1, 1, size, 4)).shape[2] for size in sizes} == sizes


@pytest.mark.parametrize("kernel_size", [1, 2, 3])
def test_without_stride_it_gives_the_same_values_densely(kernel_size: int) -> None:
    pool = CeilMaxPool2d(kernel_size)
    x = torch.randn(2, 3, 9, 13)
    strided = pool(x)
    pool.stride = 1
    assert pool(x).shape == x.shape
    assert torch.equal(pool(x)[..., ::2, ::2], strided)


def test_padding_before_shifts_an_even_window_to_end_at_its_pixel() -> None:
    x = torch.tensor([[[[0.0, 3.0, 1.0, 2.0]]]])
    assert CeilMaxPool2d(2, 1)(x).flatten().tolist() == [3, 3, 2, 2]
    assert CeilMaxPool2d(2, 1, pad_before=True)(x).flatten().tolist() == [0, 3, 3, 2]
