"""Exclude parts of a network from training."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from atrous.errors import AtrousError, did_you_mean


def parameters_of(model: nn.Module, name: str) -> list[nn.Parameter]:
    """List the parameters of a submodule, or a single parameter, by name; none if there is no such name."""
    return [value for key, value in model.named_parameters() if key == name or key.startswith(f"{name}.")]


def freeze(model: nn.Module, names: Sequence[str]) -> None:
    """Exclude submodules or parameters from training, by name; the submodules run in evaluation mode.

    Raises: `AtrousError` for a name that the network does not have.
    """
    for name in names:
        frozen = parameters_of(model, name)
        if not frozen:
            known = {child for child, _ in model.named_children()}
            raise AtrousError(f"freeze: the network has no submodule '{name}'.{did_you_mean(name, known)}")
        for value in frozen:
            value.requires_grad_(False)
    for name, module in model.named_modules():
        if name in names:
            module.eval()
