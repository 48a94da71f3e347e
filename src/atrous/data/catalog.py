"""Data sets by name: `voc2012:/path?split=val`."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, get_type_hints
from urllib.parse import parse_qsl

import atrous.data.datasets  # noqa: F401  (registers the data sets)
from atrous.data.dataset import DATASETS, SegmentationDataset
from atrous.errors import AtrousError, did_you_mean

list_datasets = DATASETS.names

_SPEC = re.compile(r"(?:(?P<name>[A-Za-z_][\w.]+):)?(?P<rest>.*)", re.DOTALL)


@dataclass(frozen=True)
class DatasetSpec:
    """What a data set is called: a registered name and a folder, or a module and a function in it; and options."""

    name: str
    target: str
    options: dict[str, str] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str) -> DatasetSpec:
        """Take `NAME:PATH?key=value&key=value` apart; a path alone is an own `folder`.

        Raises: `AtrousError` for options that are not of the form.
        """
        found = _SPEC.fullmatch(text)
        assert found is not None
        rest, question, query = found["rest"].partition("?")
        try:
            options = dict(parse_qsl(query, strict_parsing=True)) if question else {}
        except ValueError as error:
            raise AtrousError(f"'{text}': after ? come options such as split=val&key=value, not '{query}'.") from error
        if not rest:
            raise AtrousError(
                f"'{text}' names no folder; write for example '{found['name'] or 'voc2012'}:/path?split=val'."
            )
        return cls(found["name"] or "folder", rest, options)

    def __str__(self) -> str:
        options = "&".join(f"{key}={value}" for key, value in self.options.items())
        return f"{self.name}:{self.target}{'?' if options else ''}{options}"


def open_dataset(spec: str | os.PathLike[str], **options: Any) -> SegmentationDataset:
    """A data set: `NAME:PATH?split=val`, a folder with `classes.yaml`, or `package.module:function?split=val`.

    `options` are added to, and go before, those in the spec. A function of one's own is called with the options and
    returns a `SegmentationDataset`; its module is looked for in the current folder too.

    Raises: `AtrousError` for an unknown name or option, with the nearest known one, or a folder that is not laid out as
    the data set's official one.
    """
    parsed = DatasetSpec.parse(os.fspath(spec))
    merged = {**parsed.options, **options}
    if parsed.name in DATASETS.names():
        entry = DATASETS.entry(parsed.name)
        known = {key: kind for key, kind in get_type_hints(entry.function).items() if key in entry.arguments()}
        return entry.build(root=Path(parsed.target).expanduser(), **_typed(merged, known))
    if not parsed.target.isidentifier():
        raise AtrousError(
            f"There is no data set '{parsed.name}'.{did_you_mean(parsed.name, DATASETS.names())} There are "
            f"{', '.join(DATASETS.names())}; for a function of your own write 'package.module:function'."
        )
    function = _imported(parsed.name, parsed.target)
    made = function(**_typed(merged, get_type_hints(function)))
    if not isinstance(made, SegmentationDataset):
        raise AtrousError(
            f"{parsed}: the function returned {type(made).__name__}, not an atrous.data.SegmentationDataset."
        )
    return made


def _typed(options: dict[str, Any], kinds: dict[str, Any]) -> dict[str, Any]:
    """Options as the function annotates them; they come as text."""
    converted = {}
    for key, value in options.items():
        kind = kinds.get(key, str)
        try:
            converted[key] = kind(value) if kind in (int, float, Path) and isinstance(value, str) else value
        except ValueError as error:
            raise AtrousError(f"{key}={value}: a {kind.__name__} is expected.") from error
    return converted


def _imported(module: str, name: str) -> Callable[..., Any]:
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())  # as `python -m` does; worker processes inherit it
    try:
        loaded = import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise  # the module is there, but misses one of its own
        raise AtrousError(
            f"There is no data set and no module '{module}'.{did_you_mean(module, DATASETS.names())} Data sets: "
            f"{', '.join(DATASETS.names())}."
        ) from error
    function = getattr(loaded, name, None)
    if not callable(function):
        raise AtrousError(f"{module} has no function '{name}'.{did_you_mean(name, vars(loaded))}")
    return function
