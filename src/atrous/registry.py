"""Registries: create networks, backbones and data sets by name, list names by wildcard, suggest the nearest name."""

from __future__ import annotations

import fnmatch
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from numbers import Integral, Real
from types import UnionType
from typing import Any, Generic, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from atrous.errors import AtrousError, did_you_mean

COUNTS = ("num_classes", "in_channels")
"""Arguments that are 1 or more, whatever they build."""

T = TypeVar("T")
Function = TypeVar("Function", bound=Callable[..., Any])


def matching(pattern: str, names: Iterable[str]) -> list[str]:
    """Filter names by a shell wildcard, or by a substring if the pattern has no wildcard; sorted alphabetically."""
    if not isinstance(pattern, str):
        raise AtrousError(f"The pattern is {pattern!r}; expected a text such as '*resnet*'.")
    if not any(sign in pattern for sign in "*?["):
        pattern = f"*{pattern}*"
    return sorted(fnmatch.filter(names, pattern))


@dataclass(frozen=True)
class Paper:
    """The publication of an architecture, a backbone or a data set."""

    title: str
    authors: str
    year: int
    arxiv: str = ""

    @property
    def short(self) -> str:
        """The citation in running text: `Chen et al., arXiv 1706.05587`."""
        first, *others = self.authors.split(", ")
        names = f"{first} et al." if len(others) > 1 else " and ".join([first, *others])
        return f"{names}, arXiv {self.arxiv}" if self.arxiv else names


@dataclass(frozen=True)
class Argument:
    """A keyword argument of a registered function: its default and its annotated type."""

    default: Any
    type: Any = Any

    @property
    def required(self) -> bool:
        """Whether it lacks a default."""
        return self.default is inspect.Parameter.empty


@dataclass(frozen=True)
class Entry(Generic[T]):
    """One registered name: the function (or class) that builds it, the preset arguments, and the paper if any.

    A function that passes `**options` on names the functions or classes that take them in `options_of`.
    """

    name: str
    function: Callable[..., T]
    paper: Paper | None
    preset: Mapping[str, Any] = field(default_factory=dict)
    """Arguments fixed at registration, e.g. `backbone='resnet50'`; keyword-only ones can be overridden."""
    options_of: tuple[Callable[..., Any], ...] = ()
    listed: bool = True

    def arguments(self) -> dict[str, Argument]:
        """List the keyword arguments that `build` takes; if several functions share a name, the first wins."""
        arguments: dict[str, Argument] = {}
        for function in reversed((self.function, *self.options_of)):
            arguments |= keyword_arguments(function)
        return {
            key: replace(argument, default=self.preset.get(key, argument.default))
            for key, argument in arguments.items()
        }

    def build(self, **arguments: Any) -> T:
        """Call the function with the preset and these arguments.

        Raises: `AtrousError` for an unknown argument, with the nearest known one, for a missing one, and for a value
        that the annotation does not allow, with the nearest one of a `Literal`.
        """
        known = self.arguments()
        for key, value in arguments.items():
            if key not in known:
                raise AtrousError(
                    f"{self.name} takes no argument '{key}'.{did_you_mean(key, known)} "
                    f"It takes: {', '.join(sorted(known))}."
                )
            if not _is_instance(value, known[key].type):
                hint = did_you_mean(value, _literal_values(known[key].type)) if isinstance(value, str) else ""
                raise AtrousError(f"{self.name} takes {key} as {_type_text(known[key].type)}, not {value!r}.{hint}")
            if key in COUNTS and isinstance(value, int) and value < 1:
                raise AtrousError(f"{self.name} takes {key} as 1 or more, not {value}.")
        if missing := [key for key, argument in known.items() if argument.required and key not in arguments]:
            raise AtrousError(f"{self.name} needs the argument {' and '.join(missing)}.")
        return self.function(**{**self.preset, **arguments})


def keyword_arguments(function: Callable[..., Any]) -> dict[str, Argument]:
    """List the keyword-only arguments of a function, or of a class's constructor."""
    types = get_type_hints(function.__init__ if isinstance(function, type) else function)  # type: ignore[misc]
    return {
        key: Argument(parameter.default, types.get(key, Any))
        for key, parameter in inspect.signature(function).parameters.items()
        if parameter.kind is parameter.KEYWORD_ONLY
    }


def _literal_values(annotation: Any) -> list[str]:
    """List the words that an annotation allows: those of a `Literal`, alone or in a union."""
    if get_origin(annotation) is Literal:
        return [value for value in get_args(annotation) if isinstance(value, str)]
    if get_origin(annotation) in (Union, UnionType):
        return [value for member in get_args(annotation) for value in _literal_values(member)]
    return []


def _is_instance(value: Any, annotation: Any) -> bool:
    """Check a value against an annotation of scalars, literals, sequences, mappings and unions; others accept all."""
    origin, members = get_origin(annotation), get_args(annotation)
    if origin in (Union, UnionType):
        return any(_is_instance(value, member) for member in members)
    if origin is Literal:
        return any(type(value) is type(member) and value == member for member in members)
    if origin in (list, tuple, Sequence):
        element = members[0] if members else Any
        return (
            isinstance(value, Sequence) and not isinstance(value, str) and all(_is_instance(v, element) for v in value)
        )
    if origin in (dict, Mapping):
        return isinstance(value, Mapping)
    if annotation is int and isinstance(value, bool):
        return False
    expected = {int: Integral, float: Real, bool: bool, str: str, type(None): type(None)}.get(annotation)
    return expected is None or isinstance(value, expected)


def _type_text(annotation: Any) -> str:
    if get_origin(annotation) is Literal:
        return " | ".join(map(repr, get_args(annotation)))
    if get_origin(annotation) in (Union, UnionType):
        return " | ".join("None" if member is type(None) else _type_text(member) for member in get_args(annotation))
    text = annotation.__name__ if isinstance(annotation, type) else str(annotation)
    return text.replace("typing.", "").replace("collections.abc.", "")


class Registry(Generic[T]):
    """Named functions or classes that build networks, backbones or data sets, with their keyword-only arguments.

    `kind` names the entries in error messages, `lister` the command or function that lists them.
    """

    def __init__(self, kind: str, lister: str = "") -> None:
        self.kind = kind
        self.lister = lister
        self._entries: dict[str, Entry[T]] = {}
        self._prefixes: dict[str, Entry[T]] = {}

    def register(
        self,
        name: str,
        paper: Paper | None,
        *,
        options_of: Callable[..., Any] | tuple[Callable[..., Any], ...] = (),
        listed: bool = True,
        **preset: Any,
    ) -> Callable[[Function], Function]:
        """Decorate a function or class to register it under `name`, to be called with the arguments `preset`.

        `paper` may be None. `options_of` names the functions or classes that the function passes its `**options` to.
        With `listed=False` the name can be used, but `names` leaves it out: it needs further arguments.

        Raises: `AtrousError` if the name is already registered.
        """

        def register(function: Function) -> Function:
            if name in self._entries:
                raise AtrousError(f"The {self.kind} '{name}' is registered twice.")
            others = options_of if isinstance(options_of, tuple) else (options_of,)
            self._entries[name] = Entry(name, function, paper, preset, others, listed)
            return function

        return register

    def register_prefix(self, prefix: str, **preset: Any) -> Callable[[Function], Function]:
        """Decorate a function that builds everything whose name begins with `prefix`; it is called with the `name`."""

        def register(function: Function) -> Function:
            self._prefixes[prefix] = Entry(prefix, function, None, preset)
            return function

        return register

    def __contains__(self, name: object) -> bool:
        """Whether a name can be used, listed or not."""
        return isinstance(name, str) and (name in self._entries or name.startswith(tuple(self._prefixes)))

    def names(self, pattern: str = "*") -> list[str]:
        """List the registered names that match a pattern, see `matching`."""
        return matching(pattern, [name for name, entry in self._entries.items() if entry.listed])

    def entry(self, name: str) -> Entry[T]:
        """Look up the entry of a name.

        Raises: `AtrousError` for an unknown name, with the nearest known ones.
        """
        if not isinstance(name, str):
            raise AtrousError(f"The name of the {self.kind} is {name!r}; expected a text such as '{self.names()[0]}'.")
        for prefix, entry in self._prefixes.items():
            if name.startswith(prefix):
                return replace(entry, name=name, preset={**entry.preset, "name": name.removeprefix(prefix)})
        if name not in self._entries:
            hint = f" List them with `{self.lister}`." if self.lister else ""
            raise AtrousError(
                f"There is no {self.kind} '{name}'.{did_you_mean(name, self._entries)} "
                f"There are {len(self.names())}, such as {', '.join(self.names()[:3])}.{hint}"
            )
        return self._entries[name]

    def create(self, name: str, **arguments: Any) -> T:
        """Build the network, backbone or data set registered under a name.

        Raises: `AtrousError` for an unknown name or argument, with the nearest known one.
        """
        return self.entry(name).build(**arguments)
