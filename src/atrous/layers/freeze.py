"""Exclude parts of a network from training."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
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
    _switched_off: frozenset[str] = frozenset()
    """Names of the parameters that needed a gradient before they were frozen."""

    def freeze(self, *names: str) -> Self:
        """Exclude submodules or parameters from training, by name; returns the network itself.

        The parameters need no gradient. The submodules stay in evaluation mode (fixed statistics of batch
        normalization, no dropout), also when `train()` is called. `unfreeze` undoes it; parameters
        that needed no gradient before, such as those of a fixed upsampling, stay as they are.

        Raises: `AtrousError` for a name that the network does not have; then nothing has changed.
        """
        for name in names:
            if not parameters_of(self, name):
                children = [child for child, _ in self.named_children()]
                raise AtrousError(
                    f"freeze: the network has no submodule '{name}'.{did_you_mean(name, children)} It has "
                    f"{', '.join(children)}, and parts of these by names such as {next(iter(self.state_dict()), '')}."
                )
        return self._set_frozen_parts((*self.frozen_parts, *names))

    def unfreeze(self, *names: str) -> Self:
        """Include frozen parts in training again, by name, or all of them if no name is given; returns the network.

        Raises: `AtrousError` for a name that is not frozen; then nothing has changed.
        """
        for name in names:
            if name not in self.frozen_parts:
                near = did_you_mean(name, self.frozen_parts)
                frozen = ", ".join(self.frozen_parts) or "nothing"
                raise AtrousError(f"unfreeze: '{name}' is not frozen.{near} Frozen: {frozen}.")
        return self._set_frozen_parts([name for name in self.frozen_parts if names and name not in names])

    def train(self, mode: bool = True) -> Self:
        """Switch to training or evaluation mode; frozen submodules stay in evaluation mode. Returns the network."""
        super().train(mode)
        modules = dict(self.named_modules())
        for name in self.frozen_parts:
            if name in modules:
                modules[name].eval()
        return self

    def _set_frozen_parts(self, names: Iterable[str]) -> Self:
        """Freeze exactly these parts; parameters outside need a gradient if they did before they were frozen."""
        self.frozen_parts = tuple(dict.fromkeys(names))
        inside = {id(value) for name in self.frozen_parts for value in parameters_of(self, name)}
        switched_off = set()
        for key, value in self.named_parameters():
            if key in self._switched_off:
                value.requires_grad_()
            if id(value) in inside and value.requires_grad:
                value.requires_grad_(False)
                switched_off.add(key)
        self._switched_off = frozenset(switched_off)
        return self.train(self.training)


@contextmanager
def frozen_parts_lifted(model: nn.Module) -> Iterator[None]:
    """Unfreeze the frozen parts of a network, and of the networks inside it, and freeze them again at the end."""
    frozen = [
        (module, module.frozen_parts)
        for module in model.modules()
        if isinstance(module, FreezableModule) and module.frozen_parts
    ]
    for module, _ in frozen:
        module._set_frozen_parts(())
    try:
        yield
    finally:
        for module, parts in reversed(frozen):
            module._set_frozen_parts(parts)
