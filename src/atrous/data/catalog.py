"""Open data sets by name: `voc2012:/path?split=val`."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, get_args, get_type_hints
from urllib.parse import parse_qsl

import atrous.data.datasets  # noqa: F401  (registers the data sets)
from atrous.data.dataset import DATASETS, SegmentationDataset
from atrous.errors import AtrousError, did_you_mean

list_datasets = DATASETS.names

_SPEC = re.compile(r"(?:(?P<name>[A-Za-z_][\w.]+):)?(?P<rest>.*)", re.DOTALL)


@dataclass(frozen=True)
class DatasetSpec:
    """A parsed `NAME:PATH?key=value`: a registered name and a folder, or a module and a function, with options."""

    name: str
    target: str
    options: dict[str, str] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str) -> DatasetSpec:
        """Parse `NAME:PATH?key=value&key=value`; a path alone is a data set of kind `folder`.

        Raises: `AtrousError` for malformed options or a missing path.
        """
        match = _SPEC.fullmatch(text)
        assert match is not None
        rest, question, query = match["rest"].partition("?")
        try:
            # Paths may contain a +, which forms send for a space.
            pairs = parse_qsl(query.replace("+", "%2B"), strict_parsing=True, keep_blank_values=True)
            options = dict(pairs) if question else {}
        except ValueError as error:
            raise AtrousError(
                f"'{text}': '{query}' are not options; expected key=value after the ?, such as split=val&key=value."
            ) from error
        if not rest:
            raise AtrousError(
                f"'{text}' names no folder; write for example '{match['name'] or 'voc2012'}:/path?split=val'."
            )
        return cls(match["name"] or "folder", rest, options)

    def __str__(self) -> str:
        options = "&".join(
            f"{key}={value.replace('%', '%25').replace('&', '%26')}" for key, value in self.options.items()
        )
        return f"{self.name}:{self.target}{'?' if options else ''}{options}"


def open_dataset(spec: str | os.PathLike[str], **options: Any) -> SegmentationDataset:
    """Open a data set: `NAME:PATH?split=val`, a folder with `classes.yaml`, or `package.module:function?split=val`.

    `options` override those in `spec`. A function of your own is called with the options and returns a
    `SegmentationDataset`; its module is searched for in the current folder too.

    Raises: `AtrousError` for an unknown name or option, with the nearest known one, and for a folder whose layout is
    not the official one of the data set.
    """
    parsed = DatasetSpec.parse(os.fspath(spec))
    merged = {**parsed.options, **options}
    if parsed.name in DATASETS.names():
        entry = DATASETS.entry(parsed.name)
        types = {key: type_ for key, type_ in get_type_hints(entry.function).items() if key in entry.arguments()}
        root = Path(os.path.expanduser(parsed.target))  # not Path.expanduser: it raises for an unknown user
        return entry.build(root=root, **_typed(merged, types))
    if not parsed.target.isidentifier():
        raise AtrousError(
            f"There is no data set '{parsed.name}'.{did_you_mean(parsed.name, DATASETS.names())} The data sets are "
            f"{', '.join(DATASETS.names())}; for a function of your own write 'package.module:function'."
        )
    function = _import_function(parsed.name, parsed.target)
    dataset = function(**_typed(merged, get_type_hints(function)))
    if not isinstance(dataset, SegmentationDataset):
        raise AtrousError(
            f"{parsed}: the function returned {type(dataset).__name__}; expected an atrous.data.SegmentationDataset."
        )
    return dataset


def _typed(options: dict[str, Any], types: dict[str, Any]) -> dict[str, Any]:
    """Convert options from text to the types that the function annotates, perhaps as one of several.

    Raises: `AtrousError` for a text that is no value of the type.
    """
    converted = {}
    for key, value in options.items():
        type_ = types.get(key, str)
        choices = get_args(type_) or (type_,)
        convert = next((_CONVERSIONS[each] for each in choices if each in _CONVERSIONS), None)
        try:
            converted[key] = convert(value) if convert is not None and isinstance(value, str) else value
        except (ValueError, KeyError) as error:
            name = getattr(type_, "__name__", str(type_))
            raise AtrousError(f"{key}={value} is not valid; expected a value of type {name}.") from error
    return converted


_CONVERSIONS: dict[Any, Callable[[str], Any]] = {
    bool: lambda text: {"true": True, "1": True, "false": False, "0": False}[text.lower()],
    int: int,
    float: float,
    Path: Path,
}


def _import_function(module: str, name: str) -> Callable[..., Any]:
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())  # as `python -m` does; worker processes inherit it
    try:
        loaded = import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise  # the module exists, but an import in it fails
        raise AtrousError(
            f"There is no data set and no module '{module}'.{did_you_mean(module, DATASETS.names())} The data sets are "
            f"{', '.join(DATASETS.names())}."
        ) from error
    function = getattr(loaded, name, None)
    if not callable(function):
        raise AtrousError(f"{module} has no function '{name}'.{did_you_mean(name, vars(loaded))}")
    return function
