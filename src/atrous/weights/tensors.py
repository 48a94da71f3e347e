"""Load tensors into models: all of them, with matching shapes and finite values, or none."""

from __future__ import annotations

from collections.abc import Mapping, Set
from pathlib import Path
from typing import TYPE_CHECKING

from atrous.errors import AtrousError

if TYPE_CHECKING:
    from torch import Tensor, nn

_ADVICE = "Check that the file belongs to this network with these arguments."


def load_tensors(model: nn.Module, tensors: Mapping[str, Tensor], source: str) -> None:
    """Load tensors into a model that was built on the "meta" device, as 32-bit floats.

    Raises: `AtrousError` naming the file (`source`) and a key that is missing, unknown, of another shape or not finite.
    """
    expected = model.state_dict()
    if missing := expected.keys() - tensors.keys():
        raise AtrousError(f"{source}: {_list(missing)} missing for this {type(model).__name__}. {_ADVICE}")
    if unknown := tensors.keys() - expected.keys():
        raise AtrousError(f"{source}: {_list(unknown)} unknown to this {type(model).__name__}. {_ADVICE}")
    converted = {}
    for key, value in tensors.items():
        if value.shape != expected[key].shape:
            shapes = f"has shape {tuple(value.shape)}, expected {tuple(expected[key].shape)}"
            raise AtrousError(f"{source}: {key} {shapes}. {_ADVICE}")
        if value.is_floating_point() and not value.isfinite().all():
            raise AtrousError(f"{source}: {key} contains NaN or infinite values. Save or train the weights again.")
        converted[key] = value.to(expected[key].dtype, copy=True)  # aligned, unlike views of a mapped file
    model.load_state_dict(converted, assign=True)


def damaged_file_error(path: Path, reason: str) -> AtrousError:
    """Make the error for a file that was truncated or altered after it was written."""
    return AtrousError(f"{path}: the file is truncated or altered ({reason}). Download or save it again.")


def _list(keys: Set[str]) -> str:
    first, *others = sorted(keys)
    return f"'{first}' and {len(others)} more keys are" if others else f"the key '{first}' is"
