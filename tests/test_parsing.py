"""Texts of untrusted files: plain values, or one exception in one line."""

from __future__ import annotations

import pytest

from atrous.parsing import MAX_VALUES, ParseError, parse_json, parse_yaml


def test_plain_values() -> None:
    assert parse_json(b'{"a": [1, null]}') == {"a": [1, None]}
    assert parse_yaml("a: &x [1, 2]\nb: *x\n") == {"a": [1, 2], "b": [1, 2]}


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, "\udc00", "9" * 5000, '{"a": 1}}'])
def test_invalid_json(text: str) -> None:
    with pytest.raises(ParseError) as caught:
        parse_json(text)
    assert str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    ["{", "a: 2021-13-45", "!!python/object:os.system {}", "a: \0", "[" * 500, '{"a":' * 500, "&a [*a]", "? [a]\n: 1"],
)
def test_invalid_yaml(text: str) -> None:
    with pytest.raises(ParseError) as caught:
        parse_yaml(text)
    assert str(caught.value)
    assert "\n" not in str(caught.value)


def test_aliases_that_expand_to_billions_of_values() -> None:
    lines = ["a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 10)]
    with pytest.raises(ParseError, match=f"over {MAX_VALUES:,} values"):
        parse_yaml("\n".join(lines))


@pytest.mark.parametrize("text", ['"\\ud800"', '{"\\uDC00": 1}', '[["a\\ud83d"]]'])
def test_halves_of_characters_are_refused(text: str) -> None:
    for parse in (parse_json, parse_yaml):
        with pytest.raises(ParseError, match="surrogates not allowed"):
            parse(text)
    with pytest.raises(ParseError, match="surrogates not allowed"):
        parse_json(text.encode())


def test_characters_of_two_halves() -> None:
    assert parse_json('"\\ud83d\\ude00"') == "\N{GRINNING FACE}"
