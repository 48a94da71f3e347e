"""Padding by reflection and to the grid of the output stride."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from atrous.layers.pad import mirror_pad, pad_to_grid


def test_narrow_mirrored_borders_equal_torch() -> None:
    image = torch.randn(2, 3, 7, 9)
    assert torch.equal(mirror_pad(image, (3, 8), (6, 2)), F.pad(image, (8, 2, 3, 6), mode="reflect"))


def test_a_wide_border_reflects_again_and_again() -> None:
    image = torch.tensor([0.0, 1.0, 2.0]).expand(1, 1, 2, 3)
    row = mirror_pad(image, (0, 5), (0, 6))[0, 0, 0]
    assert row.tolist() == [1, 0, 1, 2, 1, 0, 1, 2, 1, 0, 1, 2, 1, 0]


def test_mirroring_a_single_pixel_repeats_it() -> None:
    assert torch.equal(mirror_pad(torch.full((1, 2, 1, 1), 4.0), (3, 2), (1, 0)), torch.full((1, 2, 5, 3), 4.0))


@pytest.mark.parametrize(("side", "filled"), [(1, 1), (2, 9), (9, 9), (10, 17), (500, 505), (513, 513)])
def test_images_are_padded_to_multiples_of_the_stride_plus_one(side: int, filled: int) -> None:
    image = torch.randn(1, 3, side, 9)
    out = pad_to_grid(image, 8)
    assert out.shape == (1, 3, filled, 9)
    assert torch.equal(out[..., :side, :], image)
    assert not out[..., side:, :].any()
