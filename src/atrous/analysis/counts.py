"""What a network costs: parameters and multiply-adds."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode


def count_parameters(model: nn.Module) -> int:
    """Weights, biases and the scale and shift of normalization; running statistics are no parameters."""
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
    run: Any = model.training_outputs if supervised else model
    with without_values(model), FlopCounterMode(display=False) as counter, torch.no_grad():
        run(torch.empty(1, in_channels, height, width, device=device))
    model.train(was_training)
    return counter.get_total_flops() // 2


@contextmanager
def without_values(model: nn.Module) -> Iterator[list[nn.Module]]:
    """Let a network run on the "meta" device, where tensors have shapes but no values.

    Modules that cannot (by their attribute `data_dependent`) hand on their first input meanwhile; it has the shape
    of what they put out. These are yielded.
    """
    on_meta = any(parameter.is_meta for parameter in model.parameters())
    needy = [module for module in model.modules() if on_meta and getattr(module, "data_dependent", False)]
    for module in needy:
        module.forward = lambda x, *_: x.clone()
    try:
        yield needy
    finally:
        for module in needy:
            del module.forward


def count_text(count: int) -> str:
    """A number for people: `76.05 G`, `12.3 M`, or as it is."""
    for unit, digits, scale in (("G", 2, 1e9), ("M", 1, 1e6)):
        if count >= 0.1 * scale:
            return f"{count / scale:.{digits}f} {unit}"
    return str(count)
