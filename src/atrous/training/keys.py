"""List the keys of recipes with type, default and meaning, for `atrous train --keys` and the reference pages."""

from __future__ import annotations

import collections.abc
import enum
import inspect
import types
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from atrous.training.config import StageConfig
from atrous.training.plain_keys import PlainKeys
from atrous.training.recipe import Recipe


def list_keys() -> Iterator[tuple[str, str, str, str]]:
    """List every key of a recipe as it is written on the command line, with type, default and meaning."""
    models: list[tuple[str, type[BaseModel]]] = [("", PlainKeys), ("", Recipe), ("", StageConfig)]
    models += [(f"{key}.", model) for key, model in nested_models(StageConfig)]
    for prefix, model in models:
        for name, field in model.model_fields.items():
            if prefix + name != "stages":
                default = "required" if field.is_required() else default_text(field).strip("`")
                meaning = " ".join((field.description or "").split())
                yield prefix + name, type_text(field.annotation, field).replace("`", ""), default, meaning


def nested_models(model: type[BaseModel]) -> list[tuple[str, type[BaseModel]]]:
    """List the models nested in a model, each by the first key that contains it."""
    nested: dict[type[BaseModel], str] = {}
    pending = [(model, "")]
    while pending:
        current, prefix = pending.pop(0)
        for name, field in current.model_fields.items():
            for kind in _leaves(field.annotation):
                if inspect.isclass(kind) and issubclass(kind, BaseModel) and kind not in nested:
                    nested[kind] = prefix + name
                    pending.append((kind, f"{prefix}{name}."))
    return [(key, kind) for kind, key in nested.items()]


def _leaves(annotation: Any) -> Iterator[Any]:
    arguments = typing.get_args(annotation)
    if not arguments:
        yield annotation
    for argument in arguments:
        yield from _leaves(argument)


def type_text(annotation: Any, field: FieldInfo | None = None) -> str:
    """Describe a type with the limits of its field: "integer, ≥ 0"."""
    limits = []
    for constraint in field.metadata if field is not None else ():
        for attribute, sign in (("ge", "≥"), ("gt", ">"), ("le", "≤"), ("lt", "<")):
            if (value := getattr(constraint, attribute, None)) is not None:
                limits.append(f"{sign} {value:g}")
    return ", ".join([type_name(annotation), *limits])


def type_name(annotation: Any) -> str:
    """Describe a type in plain words: "list of text"."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return type_name(arguments[0])
    if origin is typing.Literal:
        return ", ".join(f"`{value_text(value)}`" for value in arguments)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(type_name(argument) for argument in arguments if argument is not type(None))
    if origin in (list, tuple, collections.abc.Sequence, collections.abc.Iterable):
        if origin is tuple and arguments and arguments[-1] is not Ellipsis:
            return f"{len(arguments)} × {type_name(arguments[0])}"
        return f"list of {type_name(arguments[0])}" if arguments else "list"
    if origin in (dict, collections.abc.Mapping):
        return "mapping"
    if inspect.isclass(annotation) and issubclass(annotation, BaseModel):
        return "mapping, below"
    names = {
        str: "text",
        int: "integer",
        float: "number",
        bool: "true or false",
        Any: "any",
        dict: "mapping",
        Path: "path",
    }
    return names.get(annotation) or str(getattr(annotation, "__name__", annotation))


def default_text(field: FieldInfo) -> str:
    """Write the default of a field as code; empty if there is none, or if it is empty."""
    value = field.get_default(call_default_factory=True)
    if isinstance(value, BaseModel):
        return ""
    return "" if value in (None, "", (), {}) else f"`{value_text(value)}`"


def value_text(value: Any) -> str:
    """Write a value as in YAML, or a function by its name."""
    if isinstance(value, enum.Enum):
        value = value.value
    if callable(value):
        return getattr(value, "__name__", type(value).__name__)
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {value_text(entry)}" if entry != {} else str(key) for key, entry in value.items())
    if isinstance(value, (tuple, list)):
        return "[" + ", ".join(map(value_text, value)) + "]"
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)
