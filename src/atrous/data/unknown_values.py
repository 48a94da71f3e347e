"""Describe masks whose values belong to no class: once for all of them, with the numbers of masks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence

from atrous.imaging.labels import UnknownValueError

MAX_LISTED = 5
"""The number of values that are listed."""


def describe_unknown_values(
    errors: Sequence[UnknownValueError], num_classes: int, other_values: Collection[int]
) -> str:
    """Describe the errors of masks in one message, with their likely cause if all masks count from 1 instead of 0.

    `other_values` are the labels of the masks without such an error.
    """
    if len(errors) == 1:
        return f"{errors[0]}{_off_by_one(errors, num_classes, other_values)}"
    masks = Counter(value for error in errors for value in error.unknown)
    kind = "color" if next(iter(masks)).startswith("(") else "value"
    listed = ", ".join(f"{value} ({count} mask{'s' * (count > 1)})" for value, count in masks.most_common(MAX_LISTED))
    more = f" and {len(masks) - MAX_LISTED} more" if len(masks) > MAX_LISTED else ""
    first = str(errors[0]).partition(" without a class. ")[0]
    return (
        f"{len(errors)} masks hold {kind}s without a class: {listed}{more}; the first is {first}. {errors[0].expected}"
        f"{_off_by_one(errors, num_classes, other_values)}"
    )


def _off_by_one(errors: Sequence[UnknownValueError], num_classes: int, other_values: Collection[int]) -> str:
    values = {*other_values, *(value for error in errors for value in error.stored)} - {255}
    if not values or min(values) != 1 or max(values) != num_classes:
        return ""
    return (
        f" No mask holds 0, and the largest value is {num_classes}, the number of classes: if the masks count from 1, "
        "give each class its value, `values: [1]` for the first and so on."
    )
