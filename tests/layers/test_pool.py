"""Max pooling with Caffe's rounding, and pooling over grids and windows that exports."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from atrous.layers.pool import (
    DECOMPOSITIONS,
    CeilAvgPool2d,
    CeilMaxPool2d,
    MaxPool2dSame,
    Pool,
    adaptive_pool2d,
    window_pool2d,
)


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


class PooledGrids(nn.Module):
    def __init__(self, kind: Pool) -> None:
        super().__init__()
        self.kind = kind

    def forward(self, x: Tensor) -> list[Tensor]:
        return [adaptive_pool2d(x, bins, self.kind) for bins in (1, 2, 3, 6)]


SIZES = ((13, 17), (6, 40), (5, 1), (64, 7))


def exported_grids(kind: Pool, dtype: torch.dtype = torch.float32) -> torch.export.ExportedProgram:
    dynamic = torch.export.Dim.DYNAMIC
    x = torch.randn(2, 3, 13, 17, dtype=dtype)
    return torch.export.export(PooledGrids(kind), (x,), dynamic_shapes=({0: dynamic, 2: dynamic, 3: dynamic},))


@pytest.mark.parametrize("kind", ["average", "max"])
def test_exported_adaptive_pooling_is_right_at_every_size(kind: Pool) -> None:
    """Bit for bit: a network can amplify the rounding of a mean."""
    program = exported_grids(kind)
    for size in SIZES:
        x = torch.randn(1, 3, *size)
        for exported, eager in zip(program.module()(x), PooledGrids(kind)(x), strict=True):
            assert torch.equal(exported, eager)


def test_average_pooling_for_onnx_is_right_at_every_size() -> None:
    """Torch's own decomposition unrolls the bins of the traced size."""
    program = exported_grids("average", torch.float64).run_decompositions(DECOMPOSITIONS)
    assert not [node for node in program.graph.nodes if "adaptive" in str(node.target)]
    for size in SIZES:
        x = torch.randn(1, 3, *size, dtype=torch.float64)
        for exported, eager in zip(program.module()(x), PooledGrids("average")(x), strict=True):
            torch.testing.assert_close(exported, eager, rtol=1e-14, atol=1e-14)


class PooledWindows(nn.Module):
    def __init__(self, kind: Pool, stride: int | None) -> None:
        super().__init__()
        self.kind: Pool = kind
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        return window_pool2d(x, (5, 6), self.kind, stride=self.stride)


@pytest.mark.parametrize("stride", [1, None])
@pytest.mark.parametrize("kind", ["average", "max"])
@pytest.mark.parametrize("size", [(3, 4), (9, 4), (3, 11), (9, 13)])
def test_exported_windows_shrink_to_smaller_maps(kind: Pool, stride: int | None, size: tuple[int, int]) -> None:
    x = torch.randn(1, 3, *size)
    pool = PooledWindows(kind, stride)
    dynamic = torch.export.Dim.DYNAMIC
    program = torch.export.export(pool, (x,), dynamic_shapes=({2: dynamic, 3: dynamic},))
    for more in (0, 2):
        x = torch.randn(1, 3, size[0] + more * (size[0] > 5), size[1] + more * (size[1] > 6))
        torch.testing.assert_close(program.module()(x), pool(x), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("size", "expected"), [(5, [1, 3, 4]), (6, [2, 4, 5]), (7, [1, 3, 5, 6]), (8, [2, 4, 6, 7]), (1, [0])]
)
def test_tensorflows_padding_lies_at_the_end_of_even_sizes(size: int, expected: list[int]) -> None:
    pool = MaxPool2dSame(3, stride=2, padding=1)
    pixels = torch.arange(float(size))
    assert pool(pixels.expand(1, 1, size, size))[0, 0, 0].tolist() == expected
    assert pool(-pixels.expand(1, 1, size, size)).max() == 0
    pool.stride = 1
    assert pool(pixels.expand(1, 1, size, size)).shape == (1, 1, size, size)


@pytest.mark.parametrize(("height", "width"), [(33, 17), (16, 40), (1, 2)])
def test_average_pooling_loses_its_stride_exactly(height: int, width: int) -> None:
    """Also at the edge, where the strided windows average the pixels that are there."""
    pool, image = CeilAvgPool2d(2), torch.randn(2, 3, height, width)
    strided = pool(image)
    assert strided.shape[2:] == (-(-height // 2), -(-width // 2))
    whole = image[..., : height // 2 * 2, : width // 2 * 2]
    if whole.numel():
        torch.testing.assert_close(strided[..., : height // 2, : width // 2], F.avg_pool2d(whole, 2))
    pool.stride = (1, 1)
    dense = pool(image)
    assert dense.shape == image.shape
    torch.testing.assert_close(dense[..., ::2, ::2], strided)


def test_dilated_average_pooling_averages_the_pixels_of_the_strided_map() -> None:
    pool, image = CeilAvgPool2d(2), torch.randn(1, 2, 33, 17)
    expected = pool(image[..., ::4, ::4])
    pool.stride, pool.dilation = (1, 1), (4, 4)
    torch.testing.assert_close(pool(image)[..., ::8, ::8], expected)
