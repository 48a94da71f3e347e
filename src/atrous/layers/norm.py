"""Batch normalisation that copes with a single value per channel, and can be frozen for good."""

from __future__ import annotations

from typing import TypeVar

from torch import Tensor, nn

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
