"""Print on the terminal: names of files and classes appear as they are, and are never read as markup."""

from __future__ import annotations

import re
from string import Formatter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
"""Characters of file names that move the cursor, or that cannot be encoded (bytes that are not UTF-8)."""
_PLACE = "\N{OBJECT REPLACEMENT CHARACTER}"
"""The character that stands for a value while the markup around it is read."""


def make_console(*, stderr: bool = False, width: int | None = None) -> Console:
    """Create a console that prints plain text, in tables too, without reading markup or emoji codes in it."""
    from rich.console import Console

    return Console(stderr=stderr, width=width, markup=False, emoji=False, highlight=False)


def printable(value: object) -> str:
    """Convert a value to text, with control characters and undecodable bytes as escapes such as `\\n`."""
    return _CONTROL.sub(lambda match: match[0].encode("unicode_escape").decode(), str(value))


def styled(template: str, *values: object) -> Text:
    """Fill values into a template with markup, such as `"[dim]->[/] {}"`; only the template is read as markup."""
    from rich.text import Text

    fields = list(Formatter().parse(template))
    rest = iter(values)
    texts = [printable(format(next(rest), spec or "")) for _, name, spec, _ in fields if name is not None]
    literals = "".join(literal + (_PLACE if name is not None else "") for literal, name, _, _ in fields)
    marked = Text.from_markup(literals, emoji=False)
    result, start = Text(), 0
    for text in texts:
        place = marked.plain.index(_PLACE, start)
        result.append_text(marked[start:place])
        value = Text(text)
        for span in marked[place : place + 1].spans:
            value.stylize(span.style)
        result.append_text(value)
        start = place + 1
    return result.append_text(marked[start:])


def print_line(template: str, *values: object, stderr: bool = False, console: Console | None = None) -> None:
    """Print a line that the terminal may wrap, but that stays whole for whoever copies it; see `styled`."""
    (console or make_console(stderr=stderr)).print(styled(template, *values), soft_wrap=True)
