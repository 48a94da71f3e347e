"""The one exception that is meant to be read by a person."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class AtrousError(ValueError):
    """Something the user gave cannot be used; the message says what was found, what was expected and what to do.

    It is a `ValueError`, so library callers need not know it. The command line prints it in one line and exits with 2.
    """


def did_you_mean(word: str, known: Iterable[str], count: int = 3) -> str:
    """A hint such as `" Did you mean 'deeplab_v3.resnet50'?"`, or nothing when no known name is near."""
    near = difflib.get_close_matches(word, list(known), n=count, cutoff=0.5)
    if not near:
        return ""
    *head, last = (f"'{name}'" for name in near)
    return f" Did you mean {', '.join(head)}{' or ' if head else ''}{last}?"
