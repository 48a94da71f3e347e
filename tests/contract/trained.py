"""Networks with the statistics and scales of trained ones."""

from __future__ import annotations

from torch import nn

from atrous.layers.norm import NORMALIZATION


def imitate_training(network: nn.Module) -> None:
    """Randomize normalization and all parameters near zero, so that no error is hidden by values of 0 and 1."""
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.normal_(layer.running_mean, std=0.1)
            nn.init.uniform_(layer.running_var, 0.5, 2.0)
        if isinstance(layer, NORMALIZATION):
            nn.init.uniform_(layer.weight, 0.5, 1.5)
            nn.init.normal_(layer.bias, std=0.1)
    for parameter in network.parameters():
        if parameter.requires_grad and parameter.abs().max() < 1e-3:  # biases, layer scales, zero classifiers
            nn.init.normal_(parameter, std=0.1)
