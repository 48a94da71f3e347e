"""Exclude parts of a network from training."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from torch import nn

from atrous.errors import AtrousError, did_you_mean

if TYPE_CHECKING:
    from typing_extensions import Self


def parameters_of(model: nn.Module, name: str) -> list[nn.Parameter]:
    """List the parameters of a submodule, or a single parameter, by name; none if there is no such name."""
    return [value for key, value in model.named_parameters() if key == name or key.startswith(f"{name}.")]


class FreezableModule(nn.Module):
    """Base class of networks with parts that can be frozen, by name: `model.freeze("backbone")`."""

    frozen_parts: tuple[str, ...] = ()
    """Names of the submodules and parameters that are excluded from training."""

    def freeze(self, *names: str) -> Self:
        """Exclude submodules or parameters from training, by name; returns the network itself.

        The parameters need no gradient. The submodules stay in evaluation mode (fixed statistics of batch
        normalization, no dropout), also when `train()` is called. `unfreeze` undoes it.

        Raises: `AtrousError` for a name that the network does not have; then nothing has changed.
        """
        self._require_grad(names, False)
        self.frozen_parts = tuple(dict.fromkeys((*self.frozen_parts, *names)))
        return self.train(self.training)

    def unfreeze(self, *names: str) -> Self:
        """Include frozen parts in training again, by name, or all of them if no name is given; returns the network.

        Raises: `AtrousError` for a name that is not frozen; then nothing has changed.
        """
        for name in names:
            if name not in self.frozen_parts:
                near = did_you_mean(name, self.frozen_parts)
                frozen = ", ".join(self.frozen_parts) or "nothing"
                raise AtrousError(f"unfreeze: '{name}' is not frozen.{near} Frozen: {frozen}.")
        thawed = names or self.frozen_parts
        self.frozen_parts = tuple(name for name in self.frozen_parts if name not in thawed)
        self._require_grad(thawed, True)
        self._require_grad(self.frozen_parts, False)  # those inside a part that is not frozen any longer
        return self.train(self.training)

    def train(self, mode: bool = True) -> Self:
        """Switch to training or evaluation mode; frozen submodules stay in evaluation mode. Returns the network."""
        super().train(mode)
        modules = dict(self.named_modules())
        for name in self.frozen_parts:
            if name in modules:
                modules[name].eval()
        return self

    def _require_grad(self, names: Iterable[str], require_grad: bool) -> None:
        parts = {name: parameters_of(self, name) for name in names}
        for name, parameters in parts.items():
            if not parameters:
                children = [child for child, _ in self.named_children()]
                raise AtrousError(
                    f"freeze: the network has no submodule '{name}'.{did_you_mean(name, children)} It has "
                    f"{', '.join(children)}, and parts of these by names such as {next(iter(self.state_dict()), '')}."
                )
        for parameters in parts.values():
            for value in parameters:
                value.requires_grad_(require_grad)
