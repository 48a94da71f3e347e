"""Parse JSON and YAML of untrusted files: whatever is wrong with a text is one exception."""

from __future__ import annotations

import json
import re
from typing import Any

import yaml

MAX_VALUES = 1_000_000
"""The number of values that a YAML file may have once its aliases are expanded; short texts expand to billions."""

_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
"""An escape of one half of a character."""


class ParseError(ValueError):
    """A text that is not valid JSON or YAML, nested too deeply, or too large; the message is a phrase in one line."""


def parse_json(text: str | bytes) -> Any:
    """Parse JSON.

    Raises: `ParseError`.
    """
    try:
        content = json.loads(text)
        if _SURROGATE.search(text if isinstance(text, bytes) else text.encode("utf-8", "replace")):
            _count_values(content, {})
        return content
    except RecursionError:
        raise ParseError("nested too deeply") from None
    except ValueError as error:
        raise ParseError(_one_line(error)) from error


def parse_yaml(text: str) -> Any:
    """Parse YAML of plain values: mappings, lists, texts, numbers.

    Raises: `ParseError`.
    """
    try:
        content = yaml.safe_load(text)
        count = _count_values(content, {})
    except RecursionError:
        raise ParseError("nested too deeply, or in itself") from None
    except Exception as error:  # PyYAML raises its own, and those of the types that it converts texts to
        raise ParseError(_one_line(error)) from error
    if count > MAX_VALUES:
        raise ParseError(f"over {MAX_VALUES:,} values, once its aliases are expanded")
    return content


def _count_values(content: Any, known: dict[int, int]) -> int:
    """Count the values of a tree in which branches may occur several times, looking at each branch once.

    Raises: `UnicodeEncodeError` for halves of characters, which escapes can write, and no file can hold.
    """
    if isinstance(content, str):
        content.encode()
    if not isinstance(content, dict | list):
        return 1
    if id(content) not in known:
        branches = [*content, *content.values()] if isinstance(content, dict) else content
        known[id(content)] = 1 + sum(_count_values(branch, known) for branch in branches)
    return known[id(content)]


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
