"""Batch normalization (frozen, synchronized, recalibrated, unfolded; single values), channels-first layer norm."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from atrous.errors import AtrousError
from atrous.layers.freeze import frozen_parts_lifted

M = TypeVar("M", bound=nn.Module)

NORMALIZATION = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)
"""Layers whose parameters are the scale and shift of a normalization."""


class BatchNorm2d(nn.BatchNorm2d):
    """A drop-in `BatchNorm2d` that can be frozen or synchronized and accepts one value per channel.

    Keys and numbers are those of `torch.nn.BatchNorm2d`, with three differences.

    In training, a map with one value per channel (image pooling at batch 1, a tiny image at a coarse stride) has no
    variance: torch raises an error, here it is normalized by the running statistics, which do not change.

    A frozen layer (see `freeze_batch_norm`) stays in evaluation mode whenever `train()` is called.

    A synchronized layer (see `synchronize_batch_norm`) computes its statistics over the batches of all processes of the
    default `torch.distributed` group, on any device.

    Shape: (N, channels, H, W) -> the same.
    """

    frozen = False
    synchronized = False

    def train(self, mode: bool = True) -> BatchNorm2d:
        super().train(mode and not self.frozen)
        return self

    def without_normalization(self) -> nn.Module:
        """Return what the layer computes besides normalization, for networks whose convolutions normalize."""
        return nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        if self.training and self.synchronized and _is_distributed():
            return self._over_processes(x)
        if self.training and x.shape[0] * x.shape[2] * x.shape[3] == 1:
            return nn.functional.batch_norm(
                x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps
            )
        return super().forward(x)

    def _over_processes(self, x: Tensor) -> Tensor:
        """Normalize as one process would with the images of all; gradients pass through the sums."""
        values = x if x.dtype == torch.float64 else x.float()
        count = _sum(values.new_tensor(float(x.numel() // x.shape[1])))
        mean = _sum(values.sum((0, 2, 3))) / count
        centered = values - mean[:, None, None]
        variance = _sum(centered.square().sum((0, 2, 3))) / count
        if count > 1:
            self._remember(mean.detach(), variance.detach() * count / (count - 1))
        else:
            assert self.running_mean is not None
            assert self.running_var is not None
            centered, variance = values - self.running_mean[:, None, None], self.running_var
        normalized = centered * (variance + self.eps).rsqrt()[:, None, None]
        return (normalized * self.weight[:, None, None] + self.bias[:, None, None]).to(x.dtype)

    @torch.no_grad()
    def _remember(self, mean: Tensor, variance: Tensor) -> None:
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked += 1
        share = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean, share)
        self.running_var.lerp_(variance, share)


class LayerNorm2d(nn.LayerNorm):
    """Layer normalization of each pixel over its channels, for maps with the channels first.

    Shape: (N, channels, H, W) -> the same.
    Source: A ConvNet for the 2020s (Liu et al. 2022), section 2.6; its epsilon of 1e-6.
    """

    def __init__(self, channels: int, eps: float = 1e-6) -> None:
        super().__init__(channels, eps=eps)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class _SumOverProcesses(torch.autograd.Function):
    """Sum a tensor over all processes; the gradient is the sum of theirs, because each value went to all of them."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        total = x.clone()
        torch.distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return _SumOverProcesses.forward(ctx, gradient)


def _sum(x: Tensor) -> Tensor:
    total: Tensor = _SumOverProcesses.apply(x)
    return total


def _is_distributed() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def freeze_batch_norm(model: M, *, affine: bool = False) -> M:
    """Freeze the statistics of every batch normalization; with `affine`, scale and shift as well.

    Source: DeepLab v3 section 4 (second phase at output stride 8), DeepLab v2 (all of training).
    """
    return _set_frozen(model, True, affine=affine)


def unfreeze_batch_norm(model: M) -> M:
    """Undo `freeze_batch_norm`; the layers return to the mode (training or evaluation) of the model.

    Parts that `FreezableModule.freeze` froze stay frozen.
    """
    return _set_frozen(model, False, affine=True)


def synchronize_batch_norm(model: M, synchronized: bool = True) -> M:
    """Let every batch normalization that trains take its statistics over all processes, or undo it.

    Source: PSPNet section 5.1; torch's `SyncBatchNorm` does the same, on CUDA alone.
    """
    for layer in model.modules():
        if isinstance(layer, BatchNorm2d):
            layer.synchronized = synchronized
    return model


def set_batch_norm(model: M, mode: str, momentum: float | None = None) -> M:
    """Set the mode of every batch normalization, for all later calls of `train()`, and its momentum if one is given.

    Modes: "train" (statistics of the batch), "sync" (of the batches of all processes), "frozen" (fixed statistics),
    "frozen_affine" (fixed scale and shift as well). Parts that `FreezableModule.freeze` froze stay frozen.
    """
    if mode.startswith("frozen"):
        freeze_batch_norm(model, affine=mode == "frozen_affine")
    else:
        unfreeze_batch_norm(model)
    synchronize_batch_norm(model, mode == "sync")
    for layer in model.modules():
        if isinstance(layer, BatchNorm2d) and momentum is not None:
            layer.momentum = momentum
    return model


def _set_frozen(model: M, frozen: bool, *, affine: bool) -> M:
    with frozen_parts_lifted(model):
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
    """Recompute the statistics of every batch normalization on these images, with the current weights.

    Training leaves a moving average over older weights. Here each layer gets the mean over all batches of their means
    and of their unbiased variances, m / (m - 1) times the biased ones, weighted by the batches' numbers of pixels.
    Normalization runs as in training, everything else (dropout) as in evaluation; frozen layers and parts stay as they
    are.

    Shape: `batches` of (N, in_channels, H, W), the input of `model`.
    Source: Batch Normalization (Ioffe, Szegedy; 2015) algorithm 2; SegNet's `compute_bn_statistics.py`.
    Raises: `AtrousError` if there are no batches.
    """
    layers = _trained_batch_norms(model)
    momenta = [layer.momentum for layer in layers]
    training, pixels = model.training, 0
    model.eval()
    for layer in layers:
        layer.train()
    for batch in batches:
        weight = batch.numel() // batch.shape[1]
        pixels += weight
        for layer in layers:
            layer.momentum = weight / pixels  # 1 for the first batch: it replaces the old statistics
        model(batch)
    for layer, momentum in zip(layers, momenta, strict=True):
        layer.momentum = momentum
    model.train(training)
    if not pixels:
        raise AtrousError("recalibrate_batch_norm: there are no batches to compute the statistics on.")
    return model


def folded_batch_norms(model: nn.Module) -> list[BatchNorm2d]:
    """List the layers that would train although their normalization is folded into the convolutions before them.

    Importers give such layers mean 0 and variance 1 - eps, up to rounding: they only scale and shift. Those of a new
    layer are 0 and 1.
    """
    return [
        layer
        for layer in _trained_batch_norms(model)
        if isinstance(layer, BatchNorm2d)
        and not _mean(layer).any()
        and ((_variance(layer) - (1 - layer.eps)).abs() < layer.eps / 2).all()
    ]


def _trained_batch_norms(model: nn.Module) -> list[nn.modules.batchnorm._BatchNorm]:
    """List the layers that take statistics of the batch when `model` trains: those that are not frozen."""
    training = model.training
    norms = [layer for layer in model.train().modules() if isinstance(layer, nn.modules.batchnorm._BatchNorm)]
    layers = [layer for layer in norms if layer.training]
    model.train(training)
    return layers


@torch.no_grad()
def unfold_batch_norm(model: M, batches: Iterable[Tensor]) -> M:
    """Give every layer of `folded_batch_norms` the statistics of its input on these images; the outputs stay the same.

    Scale and shift change with the statistics. Trained as it is, a folded layer would suddenly normalize what the next
    layers expect as it is.

    Shape: `batches` of (N, in_channels, H, W), the input of `model`.
    Raises: `AtrousError` if there are no batches.
    """
    layers = folded_batch_norms(model)
    sums = {layer: [_mean(layer).new_zeros((), dtype=torch.float64)] * 3 for layer in layers}

    def measure(layer: BatchNorm2d, inputs: tuple[Tensor]) -> None:
        (x,), axes = inputs, (0, 2, 3)
        total, squares = (values.sum(axes, dtype=torch.float64) for values in (x, x.square()))
        added = total.new_tensor(x.numel() // x.shape[1]), total, squares
        sums[layer] = [old + new for old, new in zip(sums[layer], added, strict=True)]

    hooks = [layer.register_forward_pre_hook(measure) for layer in layers]
    training, count = model.training, 0
    model.eval()
    for batch in batches:
        model(batch)
        count += 1
    for hook in hooks:
        hook.remove()
    model.train(training)
    if layers and not count:
        raise AtrousError("unfold_batch_norm: there are no batches to compute the statistics on.")
    for layer, (pixels, total, squares) in sums.items():
        mean = total / pixels
        variance = (squares / pixels - mean.square()).clamp(min=0) * pixels / (pixels - 1).clamp(min=1)
        layer.bias.add_(layer.weight * mean)
        layer.weight.mul_((variance + layer.eps).sqrt())
        _mean(layer).copy_(mean)
        _variance(layer).copy_(variance)
    return model


def _mean(layer: BatchNorm2d) -> Tensor:
    assert layer.running_mean is not None
    return layer.running_mean


def _variance(layer: BatchNorm2d) -> Tensor:
    assert layer.running_var is not None
    return layer.running_var
