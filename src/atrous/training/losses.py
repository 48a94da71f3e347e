"""The training loss: named losses, summed over all outputs of a network, at full size or subsampled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import torch
from torch import Tensor

from atrous.layers.losses import CrossEntropy, Dice, Focal, Loss, Lovasz, OHEMCrossEntropy, WeightedSum

LOSSES: Mapping[str, type[Loss]] = {
    "cross_entropy": CrossEntropy,
    "ohem": OHEMCrossEntropy,
    "focal": Focal,
    "dice": Dice,
    "lovasz": Lovasz,
}
"""Losses by their names in recipes."""


def training_loss(
    outputs: Sequence[tuple[Tensor, float]],
    labels: Tensor,
    loss: Loss,
    step: int = 0,
    stride: int = 1,
    align_corners: bool = False,
    weights: Tensor | None = None,
) -> Tensor:
    """Sum the weighted losses of all `model.training_outputs`: the output, auxiliary heads, the scales of MSC.

    With a `stride`, on every `stride`-th row and column only, see `subsample`. Half-precision logits become float32.
    `weights` (N, H, W) are the weight map of a `WeightedSum`.
    """
    if weights is not None:
        assert isinstance(loss, WeightedSum)
        if stride > 1:
            weights = subsample(weights, stride, align_corners=align_corners)
        loss = partial(loss, weights=weights)
    if stride > 1:
        outputs = [(subsample(logits, stride, align_corners=align_corners), weight) for logits, weight in outputs]
        labels = subsample(labels, stride, align_corners=align_corners)
    precise = ((logits.float() if logits.dtype.itemsize < 4 else logits, weight) for logits, weight in outputs)
    return torch.stack([loss(logits, labels, step) * weight for logits, weight in precise]).sum()


def subsample(tensor: Tensor, stride: int, *, align_corners: bool) -> Tensor:
    """Take every `stride`-th row and column, for a loss on labels downsampled to the network's output.

    The first is pixel 0 where corners are aligned, as in Caffe, else the middle of a cell.

    Shape: (..., H, W) -> (..., ceil(H / stride), ceil(W / stride)) with aligned corners.
    Source: DeepLab v1 section 4.1, v2; DeepLab v3 (section 4.1, table 8) upsamples the logits instead.
    """
    start = 0 if align_corners else min(stride // 2, tensor.shape[-1] - 1, tensor.shape[-2] - 1)
    return tensor[..., start::stride, start::stride]
