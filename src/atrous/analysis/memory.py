"""Estimate the memory of training from a forward pass on the meta device."""

from __future__ import annotations

import torch
from torch import Tensor

from atrous.analysis.counts import skip_data_dependent
from atrous.models import SegmentationModel


def saved_bytes(model: SegmentationModel, height: int, width: int) -> int:
    """Measure the bytes that the forward pass of one image saves for the backward pass, without parameters.

    The model is on the meta device, where nothing is computed. Modules that need the values of an image (CRF-RNN) are
    not run; their own `saved_bytes` is added.
    """
    storages: dict[int, int] = {}
    parameters = {id(value) for value in model.parameters()}
    alive: list[Tensor] = []

    def save(tensor: Tensor) -> Tensor:
        if id(tensor) not in parameters:
            storage = tensor.untyped_storage()
            storages[storage._cdata] = storage.nbytes()
            alive.append(tensor)  # so that its address is not reused
        return tensor

    model.train()
    with skip_data_dependent(model) as skipped, torch.autograd.graph.saved_tensors_hooks(save, lambda tensor: tensor):
        model.training_outputs(torch.empty(1, 3, height, width, device="meta"))
    return sum(storages.values()) + sum(module.saved_bytes(height, width) for module in skipped)


def bytes_text(bytes_: int) -> str:
    """Format a number of bytes: `1.5 GB`."""
    return f"{bytes_ / 1e9:.1f} GB" if bytes_ >= 1e9 else f"{bytes_ / 1e6:.0f} MB"
