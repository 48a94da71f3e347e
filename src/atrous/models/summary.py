"""What a network costs: parameters and multiply-adds."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode


def count_parameters(model: nn.Module) -> int:
    """Weights, biases and the scale and shift of normalisation; running statistics are no parameters."""
    return sum(parameter.numel() for parameter in model.parameters())


def multiply_adds(
    model: nn.Module, height: int = 513, width: int = 513, *, in_channels: int = 3, supervised: bool = False
) -> int:
    """Multiply-accumulates of all convolutions for one image, in evaluation mode.

    One per product, at the exact output sizes; nothing is computed when the model lies on the "meta" device. With
    `supervised`, what only the training loss looks at (auxiliary heads) counts as well. Published figures of DeepLab
    charge atrous convolutions as TensorFlow ran them, on padded maps, and are up to a tenth larger.
    """
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    run: Any = model.supervised if supervised else model
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        run(torch.empty(1, in_channels, height, width, device=device))
    model.train(was_training)
    return counter.get_total_flops() // 2
