"""Bilinear resizing, and transposed convolutions initialized to it."""

from __future__ import annotations

import pytest
import torch

from atrous.layers.resize import BilinearDeconv, resize


def test_resize_hits_the_corners_only_when_they_are_aligned() -> None:
    x = torch.tensor([[[[0.0, 1.0]]]])
    assert resize(x, (1, 3), align_corners=True).flatten().tolist() == [0.0, 0.5, 1.0]
    assert resize(x, (1, 4), align_corners=False).flatten().tolist() == [0.0, 0.25, 0.75, 1.0]


@pytest.mark.parametrize("stride", [2, 8, 16, 32])
def test_bilinear_deconvolution_of_a_constant_is_the_constant_inside(stride: int) -> None:
    for depthwise in (False, True):
        deconv = BilinearDeconv(3, stride, depthwise=depthwise)
        out = deconv(torch.tensor([1.0, -2.0, 3.0]).view(1, 3, 1, 1).expand(1, 3, 5, 6))
        assert out.shape == (1, 3, 6 * stride, 7 * stride)
        inside = out[..., stride:-stride, stride:-stride]
        torch.testing.assert_close(inside, torch.tensor([1.0, -2.0, 3.0]).view(1, 3, 1, 1).expand_as(inside))


def test_bilinear_deconvolution_is_bilinear_resizing_but_for_the_edge() -> None:
    x = torch.randn(2, 3, 6, 5)
    deconv = BilinearDeconv(3, 8, depthwise=True, padding=4)
    expected = resize(x, (48, 40), align_corners=False)
    torch.testing.assert_close(deconv(x)[..., 4:-4, 4:-4], expected[..., 4:-4, 4:-4])
