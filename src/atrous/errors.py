"""The exception of the package, and hints for misspelled names."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

_LONGEST_LINE = 1500


class AtrousError(ValueError):
    """An invalid input; the message names what is wrong, what was expected, and what to do.

    It is a `ValueError`, so `except ValueError` catches it. The command line prints the message alone and exits with 2.
    Lines over 1500 characters, which quote something from a damaged file, are shortened in the middle.
    """

    def __init__(self, message: str) -> None:
        super().__init__("\n".join(map(_shorten, message.split("\n"))))


def _shorten(line: str) -> str:
    return line if len(line) <= _LONGEST_LINE else f"{line[: _LONGEST_LINE - 405]} ... {line[-400:]}"


class UnavailableError(AtrousError):
    """A file that is not on this machine and cannot be downloaded now."""


def describe_unexpected(error: BaseException) -> str:
    """Describe an exception that is not an `AtrousError` in one line: its type, and its message shortened."""
    message = " ".join(str(error).split())
    return f"{type(error).__name__}{': ' if message else ''}{message[:300]}"


def did_you_mean(word: str, known: Iterable[str], count: int = 3) -> str:
    """Suggest similar names: `" Did you mean 'deeplab_v3.resnet50'?"`, or "" if no known name is similar."""
    near = difflib.get_close_matches(word, list(known), n=count, cutoff=0.5)
    if not near:
        return ""
    *head, last = (f"'{name}'" for name in near)
    return f" Did you mean {', '.join(head)}{' or ' if head else ''}{last}?"
