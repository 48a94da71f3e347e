"""Base class of metadata and settings with a fixed set of keys: cards, recipes, `classes.yaml`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from atrous.errors import did_you_mean

_EXPECTED = {
    **dict.fromkeys(("tuple_type", "list_type", "set_type"), "a list"),
    **dict.fromkeys(("dict_type", "model_type", "mapping_type"), "a mapping of keys to values"),
    **dict.fromkeys(("int_type", "int_parsing", "int_from_float"), "an integer"),
    **dict.fromkeys(("float_type", "float_parsing"), "a number"),
    **dict.fromkeys(("bool_type", "bool_parsing"), "true or false"),
    "string_type": "a text",
}
"""Pydantic's types of errors whose messages name types of Python, and what a file should contain instead."""


class StrictModel(BaseModel):
    """An immutable mapping of known keys; an unknown key is an error that names the nearest known one.

    The docstring below a field is its description, which the documentation prints.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    renamed_keys: ClassVar[Mapping[str, str]] = {}
    """Keys of older versions and their present names; they are still read."""

    @model_validator(mode="before")
    @classmethod
    def _check_keys(cls, data: Any) -> Any:
        if isinstance(data, cls):
            return data
        if not isinstance(data, Mapping):
            raise ValueError(f"expected a mapping of {', '.join(cls.model_fields)}, not {type(data).__name__}")
        data = {cls.renamed_keys.get(key, key): value for key, value in data.items()}
        for key in data:
            if key not in cls.model_fields:
                raise ValueError(
                    f"there is no key {key!r:.60}.{did_you_mean(str(key), cls.model_fields)} "
                    f"The keys are: {', '.join(cls.model_fields)}"
                )
        return data


def describe_error(error: ValidationError, root: str) -> str:
    """Describe the first problem that pydantic found as `classes.0.color: ...`, without a full stop.

    `root` names the whole, such as "the card", for a problem that is not in a single entry.
    """
    first = error.errors(include_url=False)[0]
    entry = ".".join(map(str, first["loc"])) or root
    expected = _EXPECTED.get(first["type"])
    if expected is not None:
        return f"{entry}: expected {expected}, not {first['input']!r:.60}"
    return f"{entry}: {first['msg'].removeprefix('Value error, ').rstrip('.')}"
