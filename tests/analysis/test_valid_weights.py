"""Valid weights of an atrous convolution, against a convolution of ones and the limits that the paper states."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from atrous import AtrousError
from atrous.analysis.valid_weights import plot_valid_weights, valid_weight_curve, valid_weights


@pytest.mark.parametrize("size", [(65, 65), (33, 47), (1, 5)])
@pytest.mark.parametrize("rate", [1, 6, 18, 31, 33, 64])
def test_counts_are_those_of_a_convolution_of_ones(size: tuple[int, int], rate: int) -> None:
    ones = torch.ones(1, 1, *size)
    counts = F.conv2d(ones, torch.ones(1, 1, 3, 3), padding=rate, dilation=rate).flatten().int().bincount()
    expected = {number: count / ones.numel() for number, count in enumerate(counts.tolist()) if count}
    assert valid_weights(*size, rate).shares == pytest.approx(expected)


def test_a_large_rate_leaves_the_center_only() -> None:
    """Section 3.3: with a rate close to the size of the map the kernel degenerates to a 1x1 filter."""
    shares = [valid_weights(65, 65, rate).shares for rate in (1, 32, 64)]
    assert shares[0][9] > 0.9
    assert shares[1][4] > 0.9
    assert shares[2][1] > 0.9
    assert valid_weights(65, 65, 65).shares == {1: 1.0}


def test_the_curve_is_that_of_the_last_feature_map() -> None:
    curve = valid_weight_curve("deeplab_v3.resnet101", (513, 513), width=0.125, output_stride=8)
    assert (curve.map_size, curve.rates_used) == ((65, 65), (12, 24, 36))
    assert [point.rate for point in curve.points] == list(range(1, 65))
    assert curve.points[11] == valid_weights(65, 65, 12)
    other = valid_weight_curve("deeplab_v2.vgg16", (321, 161), width=0.125)
    assert (other.map_size, other.rates_used) == ((41, 21), (6, 12, 18, 24))


@pytest.mark.parametrize("name", ["curve.svg", "curve.png"])
def test_the_plot_is_the_same_every_time(name: str, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="needs the extra 'train'")
    curve = valid_weight_curve("deeplab_v3.resnet50", (129, 129), width=0.125)
    for folder in ("a", "b"):
        plot_valid_weights(curve, tmp_path / folder / name)
    assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_invalid_arguments(tmp_path: Path) -> None:
    with pytest.raises(AtrousError, match="at rate 0"):
        valid_weights(65, 65, 0)
    with pytest.raises(AtrousError, match="no backbone"):
        valid_weight_curve("unet.padded")
