"""Load tensors into models: all of them, with matching shapes and finite values, or none."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence, Set
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


def rename_keys(state: Mapping[str, Tensor], table: Iterable[tuple[str, str]]) -> dict[str, Tensor]:
    """Rename the tensors of a state dict by the first pattern of a table that matches the beginning of each key.

    The table lists regular expressions and their replacements; keys that no pattern matches are kept.
    """
    rules = [(re.compile(pattern), ours) for pattern, ours in table]
    return {_rename(key, rules): value for key, value in state.items()}


def _rename(key: str, rules: Sequence[tuple[re.Pattern[str], str]]) -> str:
    for pattern, ours in rules:
        if pattern.match(key):
            return pattern.sub(ours, key, count=1)
    return key


def damaged_file_error(path: Path, reason: str) -> AtrousError:
    """Make the error for a file that was truncated or altered after it was written."""
    return AtrousError(f"{path}: the file is truncated or altered ({reason}). Download or save it again.")


def _list(keys: Set[str]) -> str:
    first, *others = sorted(keys)
    return f"'{first}' and {len(others)} more keys are" if others else f"the key '{first}' is"
