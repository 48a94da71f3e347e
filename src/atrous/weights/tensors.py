"""Load tensors into models: all of them, with matching shapes and finite values, or none."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence, Set
from pathlib import Path
from typing import TYPE_CHECKING, Any

from atrous.console import printable
from atrous.errors import AtrousError

if TYPE_CHECKING:
    from torch import Tensor, nn

_SHOWN = 3
"""Keys that a message lists; the others are counted."""
_ADVICE = "Check that the file belongs to this network with these arguments."


def load_tensors(model: nn.Module, tensors: Mapping[str, Tensor], source: str) -> None:
    """Load tensors into a model that was built on the "meta" device, as 32-bit floats.

    Raises: `AtrousError` naming the file (`source`), the network, and the keys that are missing, unexpected, of another
    shape or not finite.
    """
    expected = model.state_dict()
    shapes, expected_shapes = ({key: tuple(value.shape) for key, value in each.items()} for each in (tensors, expected))
    check_shapes(shapes, expected_shapes, model, source)
    converted = {}
    for key, value in tensors.items():
        if value.is_floating_point() and not value.isfinite().all():
            raise AtrousError(f"{source}: '{key}' contains NaN or infinite values. Save or train the weights again.")
        converted[key] = value.to(expected[key].dtype, copy=True)  # aligned, unlike views of a mapped file
    model.load_state_dict(converted, assign=True)


def check_shapes(
    shapes: Mapping[str, tuple[int, ...]], expected: Mapping[str, tuple[int, ...]], model: nn.Module, source: str
) -> None:
    """Compare the names and shapes of the tensors of a file with those that a network needs.

    Raises: `AtrousError` naming the file (`source`), the network, and the names that are missing, unexpected or of
    another shape.
    """
    common = expected.keys() & shapes.keys()
    other_shapes = {
        f"'{key}' has shape {shapes[key]}, expected {expected[key]}" for key in common if shapes[key] != expected[key]
    }
    problems = (
        _list({f"'{key}'" for key in expected.keys() - common}, "is missing", "are missing"),
        _list({f"'{printable(key):.200}'" for key in shapes.keys() - common}, "is unexpected", "are unexpected"),
        _list(other_shapes),
    )
    if any(problems):
        raise AtrousError(f"{source}: {'; '.join(filter(None, problems))}, in a {_describe(model)}. {_ADVICE}")


def _describe(model: nn.Module) -> str:
    """Describe a network for messages: "DeepLabV3Plus on xception65 with 21 classes"."""
    backbones: list[Any] = getattr(model, "backbones", list)()
    classes = getattr(model, "num_classes", None)
    return (
        type(model).__name__
        + (f" on {backbones[0].name or type(backbones[0]).__name__}" if backbones else "")
        + (f" with {classes} classes" if classes else "")
    )


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


def _list(items: Set[str], singular: str = "", plural: str = "") -> str:
    """Join items for a message, and count those that are not shown: "'a', 'b', 'c' and 5 more keys are missing"."""
    if not items:
        return ""
    shown = sorted(items)[:_SHOWN]
    more = len(items) - len(shown)
    text = ", ".join(shown) + (f" and {more} more{' keys' if plural else ''}" if more else "")
    return " ".join(filter(None, (text, singular if len(items) == 1 else plural)))
