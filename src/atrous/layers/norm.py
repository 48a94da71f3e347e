"""Batch normalisation that copes with a single value per channel, can be frozen for good, and measured anew."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

import torch
from torch import Tensor, nn

from atrous.errors import AtrousError

M = TypeVar("M", bound=nn.Module)


class BatchNorm2d(nn.BatchNorm2d):
    """`torch.nn.BatchNorm2d`, its keys and numbers, with two differences.

    In training, a map with one value per channel (image pooling at batch 1, a tiny image at a coarse stride) has no
    variance; it is normalised by the running statistics, which it leaves alone, where torch raises an error.

    A frozen layer (see `freeze_batch_norm`) stays in evaluation mode through any call of `train()`.
    """

    frozen = False

    def train(self, mode: bool = True) -> BatchNorm2d:
        super().train(mode and not self.frozen)
        return self

    def forward(self, x: Tensor) -> Tensor:
        if self.training and x.shape[0] * x.shape[2] * x.shape[3] == 1:
            return nn.functional.batch_norm(
                x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps
            )
        return super().forward(x)


def freeze_batch_norm(model: M, *, affine: bool = False) -> M:
    """Fix the statistics of every batch normalisation at what they are; with `affine`, scale and shift as well.

    Source: DeepLab v3 section 4 (second phase at output stride 8), DeepLab v2 (all of training).
    """
    return _set_frozen(model, True, affine=affine)


def unfreeze_batch_norm(model: M) -> M:
    """Undo `freeze_batch_norm`; the mode (training or evaluation) follows the model's."""
    return _set_frozen(model, False, affine=True)


def _set_frozen(model: M, frozen: bool, *, affine: bool) -> M:
    for layer in model.modules():
        if isinstance(layer, BatchNorm2d):
            layer.frozen = frozen
            layer.train(model.training)
            if affine:
                layer.weight.requires_grad_(not frozen)
                layer.bias.requires_grad_(not frozen)
    return model


@torch.no_grad()
def recalibrate_batch_norm(model: M, batches: Iterable[Tensor]) -> M:
    """Measure the statistics of every batch normalisation on these images, with the weights as they are now.

    Training leaves a moving average over ever older weights. Here each layer gets the mean over all batches of their
    means and of their unbiased variances, m / (m - 1) times the biased ones, a batch counting by its number of pixels.
    Normalisation runs as in training, everything else (dropout) as in evaluation; frozen layers stay as they are.

    Shape: `batches` of (N, in_channels, H, W), what `model` takes.
    Source: Batch Normalization (Ioffe, Szegedy; 2015) algorithm 2; SegNet's `compute_bn_statistics.py`.
    Raises: `AtrousError` where there are no batches.
    """
    layers = [
        layer
        for layer in model.modules()
        if isinstance(layer, nn.modules.batchnorm._BatchNorm) and not getattr(layer, "frozen", False)
    ]
    momenta = [layer.momentum for layer in layers]
    training, pixels = model.training, 0
    model.eval()
    for layer in layers:
        layer.train()
    for batch in batches:
        weight = batch.numel() // batch.shape[1]
        pixels += weight
        for layer in layers:
            layer.momentum = weight / pixels  # 1 for the first batch: what was there is forgotten
        model(batch)
    for layer, momentum in zip(layers, momenta, strict=True):
        layer.momentum = momentum
    model.train(training)
    if not pixels:
        raise AtrousError("recalibrate_batch_norm: there was no batch to measure the statistics on.")
    return model
