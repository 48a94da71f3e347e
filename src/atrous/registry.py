"""One table of everything that is created by name, with wildcard listing and "did you mean"."""

from __future__ import annotations

import fnmatch
import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar, get_type_hints

from atrous.errors import AtrousError, did_you_mean

T = TypeVar("T")
Function = TypeVar("Function", bound=Callable[..., Any])


def matching(pattern: str, names: Iterable[str]) -> list[str]:
    """The names that match a shell wildcard, or hold the pattern where it has none; in alphabetical order."""
    if not any(sign in pattern for sign in "*?["):
        pattern = f"*{pattern}*"
    return sorted(fnmatch.filter(names, pattern))


@dataclass(frozen=True)
class Paper:
    """What an architecture was published in."""

    title: str
    authors: str
    year: int
    arxiv: str = ""

    @property
    def short(self) -> str:
        """As it is cited in running text: `Chen et al., arXiv 1706.05587`."""
        first, *others = self.authors.split(", ")
        names = f"{first} et al." if len(others) > 1 else " and ".join([first, *others])
        return f"{names}, arXiv {self.arxiv}" if self.arxiv else names


@dataclass(frozen=True)
class Entry(Generic[T]):
    """One registered name: the function that builds it, what it calls it with, and its paper, if there is one."""

    name: str
    function: Callable[..., T]
    paper: Paper | None
    preset: Mapping[str, Any] = field(default_factory=dict)
    """Arguments of the function that make it this entry; a caller may give all but the positional ones anew."""

    def arguments(self) -> dict[str, inspect.Parameter]:
        """The keyword arguments that `build` takes, those handed on with `**options` to the class included."""
        own = inspect.signature(self.function).parameters
        named = {key: p for key, p in own.items() if p.kind is p.KEYWORD_ONLY}
        if any(p.kind is p.VAR_KEYWORD for p in own.values()):
            for cls in get_type_hints(self.function)["return"].__mro__:  # constructors hand options on in their turn
                taken = inspect.signature(cls.__init__).parameters if "__init__" in vars(cls) else {}
                named = {key: p for key, p in taken.items() if p.kind is p.KEYWORD_ONLY} | named
                if taken and not any(p.kind is p.VAR_KEYWORD for p in taken.values()):
                    break
        return {key: p.replace(default=self.preset.get(key, p.default)) for key, p in named.items()}

    def build(self, **arguments: Any) -> T:
        """Build it.

        Raises: `AtrousError` for an unknown argument, with the nearest known one, and for one of another type.
        """
        known = self.arguments()
        for key in arguments:
            if key not in known:
                raise AtrousError(
                    f"{self.name} takes no argument '{key}'.{did_you_mean(key, known)} "
                    f"It takes: {', '.join(sorted(known))}."
                )
        try:
            return self.function(**{**self.preset, **arguments})
        except TypeError as error:
            raise AtrousError(f"{self.name} cannot be made of {arguments}: {error}.") from error


class Registry(Generic[T]):
    """Names to functions that build things.

    Such a function takes keyword-only arguments. Where it hands `**options` on to the constructor of the class it is
    annotated to return, the keyword-only arguments of that constructor count as its own.
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._entries: dict[str, Entry[T]] = {}

    def register(self, name: str, paper: Paper | None, **preset: Any) -> Callable[[Function], Function]:
        """Decorate a function to enter it under `name`, to be called with `preset`; `paper` may be None.

        Raises: `AtrousError` where the name is taken.
        """

        def enter(function: Function) -> Function:
            if name in self._entries:
                raise AtrousError(f"The {self.kind} '{name}' is registered twice.")
            self._entries[name] = Entry(name, function, paper, preset)
            return function

        return enter

    def names(self, pattern: str = "*") -> list[str]:
        """All names that match, see `matching`."""
        return matching(pattern, self._entries)

    def entry(self, name: str) -> Entry[T]:
        """Raises: `AtrousError` naming the nearest known names."""
        if name not in self._entries:
            raise AtrousError(
                f"There is no {self.kind} '{name}'.{did_you_mean(name, self._entries)} "
                f"{len(self._entries)} are known, {', '.join(self.names()[:3])} among them."
            )
        return self._entries[name]

    def create(self, name: str, **arguments: Any) -> T:
        """Build the named thing.

        Raises: `AtrousError` for an unknown name or argument, with the nearest known one.
        """
        return self.entry(name).build(**arguments)
