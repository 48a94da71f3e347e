"""Count the weights of an atrous convolution that lie inside the feature map, as the rate grows.

A 3x3 kernel whose rate is close to the size of the map degenerates to its center: all other weights lie in the padding.
This is why DeepLab v3 adds image pooling to atrous spatial pyramid pooling.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from atrous.errors import AtrousError
from atrous.files import writing
from atrous.models import SegmentationModel, create_model

RATES = range(1, 65)
"""The rates of figure 4."""


@dataclass(frozen=True)
class ValidWeights:
    """Share of the positions of a map at which a number of weights of a 3x3 kernel are valid, by that number."""

    rate: int
    shares: dict[int, float]


@dataclass(frozen=True)
class ValidWeightCurve:
    """Valid weights on the feature map of a network, by atrous rate."""

    map_size: tuple[int, int]
    """Height and width of the backbone's last map."""
    output_stride: int
    rates_used: tuple[int, ...]
    """The atrous rates of the network's own 3x3 convolutions on that map."""
    points: tuple[ValidWeights, ...]


def valid_weights(height: int, width: int, rate: int) -> ValidWeights:
    """Count the valid weights of a 3x3 kernel at an atrous rate, over all positions of a map.

    Source: DeepLab v3 section 3.3 and figure 4, for 65 x 65.
    Raises: `AtrousError` for a rate or a size below 1.
    """
    if min(height, width, rate) < 1:
        raise AtrousError(f"A map of {height} x {width} at rate {rate}: sizes and rate must be 1 or more.")
    rows, columns = (_valid_taps(side, rate) for side in (height, width))
    numbers, counts = np.unique(np.outer(rows, columns), return_counts=True)
    shares = {int(number): int(count) / (height * width) for number, count in zip(numbers, counts, strict=True)}
    return ValidWeights(rate, shares)


def _valid_taps(side: int, rate: int) -> np.ndarray:
    """Count the taps of a kernel of 3 that lie inside, at every position along one axis."""
    positions = np.arange(side)
    return 1 + (positions >= rate) + (positions + rate < side)


def valid_weight_curve(
    name: str, size: tuple[int, int] = (513, 513), *, rates: Iterable[int] = RATES, **arguments: Any
) -> ValidWeightCurve:
    """Compute the valid weights on the backbone's last map of a network, for an image of a given size.

    Raises: `AtrousError` for an unknown id or argument, or a network without a backbone.
    """
    with torch.device("meta"):
        model = create_model(name, **arguments).eval()
        if not model.backbones():
            raise AtrousError(f"{name} has no backbone whose feature map could be convolved: choose another network.")
        sizes: list[tuple[int, int]] = []
        model.backbones()[0].register_forward_hook(lambda module, args, maps: sizes.append(tuple(maps[-1].shape[2:])))
        model.scores(torch.empty(1, 3, *size))
    height, width = sizes[0]
    points = tuple(valid_weights(height, width, rate) for rate in rates)
    return ValidWeightCurve((height, width), model.output_stride, _rates_of_head(model), points)


def _rates_of_head(model: SegmentationModel) -> tuple[int, ...]:
    inside = {id(layer) for backbone in model.backbones() for layer in backbone.modules()}
    return tuple(
        dict.fromkeys(
            layer.dilation[0]
            for layer in model.modules()
            if isinstance(layer, nn.Conv2d) and id(layer) not in inside and layer.dilation[0] > 1
        )
    )


def plot_valid_weights(curve: ValidWeightCurve, path: str | Path, *, numbers: Sequence[int] = (9, 4, 1)) -> None:
    """Draw the shares of positions with these numbers of valid weights over the rate, to an SVG or PNG file.

    Dotted lines mark the rates of the network.

    Raises: `AtrousError` if matplotlib is not installed, or the format is unknown.
    """
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError as error:
        raise AtrousError("The plot needs matplotlib: pip install 'atrous[train]'.") from error
    target = Path(path)
    format_ = target.suffix.lstrip(".").lower()
    if format_ not in ("svg", "png"):
        raise AtrousError(f"{target}: the plot is written as .svg or .png.")
    figure = Figure(figsize=(7, 3.6), layout="constrained")
    axes = figure.subplots()
    rates = [point.rate for point in curve.points]
    for number, color in zip(numbers, ("tab:blue", "tab:orange", "tab:green", "tab:red"), strict=False):
        label = f"{number} valid weight{'s' if number > 1 else ''}"
        axes.plot(rates, [100 * point.shares.get(number, 0.0) for point in curve.points], label=label, color=color)
    others = [100 * (1 - sum(point.shares.get(number, 0.0) for number in numbers)) for point in curve.points]
    axes.plot(rates, others, label="other numbers", color="0.6", linestyle="--", linewidth=1)
    for rate in curve.rates_used:
        axes.axvline(rate, color="0.4", linestyle=":", linewidth=1)
        axes.annotate(f"{rate}", (rate, 101), ha="center", va="bottom", fontsize=8, annotation_clip=False)
    height, width = curve.map_size
    axes.set(xlabel=f"atrous rate, map of {height} x {width}", ylabel="positions, %")
    axes.set(xlim=(rates[0], rates[-1]), ylim=(0, 101))
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
    target.parent.mkdir(parents=True, exist_ok=True)
    metadata = {"Date": None} if format_ == "svg" else {}  # the same file from the same curve
    with writing(target) as temporary, matplotlib.rc_context({"svg.hashsalt": "atrous", "svg.fonttype": "none"}):
        figure.savefig(temporary, dpi=120, format=format_, metadata=metadata)
