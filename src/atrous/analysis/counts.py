"""Count the parameters and multiply-adds of a network."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode


def count_parameters(model: nn.Module) -> int:
    """Count weights, biases, and scale and shift of normalization; running statistics are not parameters."""
    return sum(parameter.numel() for parameter in model.parameters())


def multiply_adds(
    model: nn.Module, height: int = 513, width: int = 513, *, in_channels: int = 3, include_auxiliary: bool = False
) -> int:
    """Count the multiply-adds of all convolutions for one image, in evaluation mode.

    Each product counts once, at the exact output sizes. Nothing is computed if the model is on the "meta" device.
    `include_auxiliary=True` also counts what only the training loss uses (auxiliary heads). The published figures of
    DeepLab count atrous convolutions as TensorFlow ran them, on padded maps, and are up to a tenth larger.
    """
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    run: Any = model.training_outputs if include_auxiliary else model
    with skip_data_dependent(model), FlopCounterMode(display=False) as counter, torch.no_grad():
        run(torch.empty(1, in_channels, height, width, device=device))
    model.train(was_training)
    return counter.get_total_flops() // 2


@contextmanager
def skip_data_dependent(model: nn.Module) -> Iterator[list[Any]]:
    """Let a network run on the "meta" device, where tensors have shapes but no values.

    Modules with the attribute `data_dependent = True` cannot run there. In this context they return a copy of their
    first input, which has the shape of their output. The context yields the list of these modules; their method
    `saved_bytes(height, width)` tells what they would save for the backward pass of one image.
    """
    on_meta = any(parameter.is_meta for parameter in model.parameters())
    skipped = [module for module in model.modules() if on_meta and getattr(module, "data_dependent", False)]
    for module in skipped:
        module.forward = lambda x, *_: x.clone()
    try:
        yield skipped
    finally:
        for module in skipped:
            del module.forward


def format_count(count: int) -> str:
    """Format a large number with a unit: `76.05 G`, `12.3 M`, or as it is below 100,000."""
    for unit, digits, scale in (("G", 2, 1e9), ("M", 1, 1e6)):
        if count >= 0.1 * scale:
            return f"{count / scale:.{digits}f} {unit}"
    return str(count)
