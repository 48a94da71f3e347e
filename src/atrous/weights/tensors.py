"""Tensors into models: complete, of the right shapes, finite, or not at all."""

from __future__ import annotations

from collections.abc import Mapping, Set
from pathlib import Path

from torch import Tensor, nn

from atrous.errors import AtrousError


def load_tensors(model: nn.Module, tensors: Mapping[str, Tensor], where: str) -> None:
    """Put tensors into a model that was built on the "meta" device, as 32-bit floats.

    Raises: `AtrousError` naming a key that is missing, left over, of another shape or not finite.
    """
    expected = model.state_dict()
    if missing := expected.keys() - tensors.keys():
        raise AtrousError(f"{where}: {_some(missing)} missing for this {type(model).__name__}.")
    if unknown := tensors.keys() - expected.keys():
        raise AtrousError(f"{where}: {_some(unknown)} unknown to this {type(model).__name__}.")
    converted = {}
    for key, value in tensors.items():
        if value.shape != expected[key].shape:
            raise AtrousError(f"{where}: {key} is {tuple(value.shape)}, expected {tuple(expected[key].shape)}.")
        if value.is_floating_point() and not value.isfinite().all():
            raise AtrousError(f"{where}: {key} holds values that are not finite; the file is damaged.")
        converted[key] = value.to(expected[key].dtype, copy=True)  # aligned, unlike views of a mapped file
    model.load_state_dict(converted, assign=True)


def damaged_file_error(path: Path, reason: str) -> AtrousError:
    """The error for a file that cannot be what it was."""
    return AtrousError(f"{path}: the file is truncated or altered ({reason}). Fetch or save it anew.")


def _some(keys: Set[str]) -> str:
    first, *others = sorted(keys)
    return f"'{first}' and {len(others)} more keys are" if others else f"the key '{first}' is"
