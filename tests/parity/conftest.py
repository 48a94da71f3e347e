"""Networks of other libraries, computed by themselves; `make test-parity` installs them and runs these tests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import atrous
from atrous.models import SegmentationModel

TOLERANCE = 1e-4
"""The largest difference to theirs, relative to the largest absolute value."""


def relative_difference(ours: Tensor, theirs: Tensor) -> float:
    """Compute the largest difference, relative to the largest absolute value."""
    return float((ours - theirs).abs().max() / theirs.abs().max())


@torch.no_grad()
def randomize(network: nn.Module) -> nn.Module:
    """Give a network random weights and batch statistics that keep its features at a similar scale, in all layers."""
    generator = torch.Generator().manual_seed(1)
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, generator=generator)
            if layer.bias is not None:
                nn.init.normal_(layer.bias, std=0.1, generator=generator)
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.normal_(layer.running_mean, std=0.3, generator=generator)
            nn.init.uniform_(layer.running_var, 0.5, 2.0, generator=generator)
            nn.init.uniform_(layer.weight, 0.5, 1.0, generator=generator)
            nn.init.normal_(layer.bias, std=0.3, generator=generator)
    return network.eval()


@pytest.fixture
def imported(tmp_path: Path) -> Callable[[nn.Module], SegmentationModel]:
    """Save the state dict of another library's network, and load it."""

    def load(network: nn.Module) -> SegmentationModel:
        path = tmp_path / "network.pth"
        torch.save(network.state_dict(), path)
        return atrous.load(path)

    return load
