"""Damage files reproducibly: flipped bits, truncation, false sizes and headers, false words in texts.

`mutate(content, draw)` chooses the damage by random numbers, which hypothesis draws, so that it can shrink them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from random import Random

MARGIN = 2048
"""Bytes at the beginning and at the end of a file where most formats have their headers and tables."""

EXTREMES = (0, 1, 2**7 - 1, 2**15 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**62, 2**63 - 1, 2**63, 2**64 - 1)
"""False sizes, shapes and offsets."""


Action = Callable[[bytearray, Random, Sequence[int]], str]
"""A way to damage the content of a file; returns a description of what was done."""


def mutate(content: bytes, draw: Random, spots: Sequence[int] = (), *, text: bool = False) -> tuple[bytes, str]:
    """Damage the content of a file in one way; return it with a description of the damage.

    `spots` are positions of interest, such as keys, sizes and shapes; a third of the damages begins at one of them.
    `text` is for files of words and numbers, of which two thirds are damaged word by word.
    """
    data = bytearray(content)
    action = draw.choice(TEXT_ACTIONS if text else ACTIONS)
    done = action(data, draw, spots)
    return bytes(data), f"{action.__name__}: {done}"


def _place(data: bytearray, draw: Random, spots: Sequence[int]) -> int:
    """Choose a position: near the beginning, near the end, at a spot, or anywhere."""
    size = max(1, len(data))
    region = draw.choice(("beginning", "end", "spot", "spot", "anywhere"))
    if region == "spot" and spots:
        return min(draw.choice(spots) + draw.choice((0, 0, 0, 1, 2)), size - 1)
    if region == "beginning":
        return draw.randrange(min(MARGIN, size))
    if region == "end":
        return size - 1 - draw.randrange(min(MARGIN, size))
    return draw.randrange(size)


def flip_bits(data: bytearray, draw: Random, spots: Sequence[int]) -> str:
    places = [_place(data, draw, spots) for _ in range(draw.choice((1, 1, 1, 2, 8)))]
    for place in places:
        data[place] ^= 1 << draw.randrange(8)
    return f"at {places}"


def truncate(data: bytearray, draw: Random, spots: Sequence[int]) -> str:
    keep = _place(data, draw, spots)
    del data[keep:]
    return f"to {keep} bytes"


def false_number(data: bytearray, draw: Random, spots: Sequence[int]) -> str:
    """Overwrite bytes by an extreme number of 1 to 8 bytes, in either byte order."""
    place, width, value = _place(data, draw, spots), draw.choice((1, 2, 4, 8)), draw.choice(EXTREMES)
    order = draw.choice(("little", "big"))
    number = (value % (1 << 8 * width)).to_bytes(width, "little" if order == "little" else "big")
    data[place : place + width] = number[: len(data) - place]
    return f"{value} as {width} bytes ({order} endian) at {place}"


def false_varint(data: bytearray, draw: Random, spots: Sequence[int]) -> str:
    """Replace a byte by a number of protocol buffers' variable length, which moves all that follows."""
    place, value = _place(data, draw, spots), draw.choice(EXTREMES)
    encoded, rest = bytearray(), value
    while rest > 127:
        encoded.append(rest & 127 | 128)
        rest >>= 7
    encoded.append(rest)
    data[place : place + 1] = encoded
    return f"{value} at {place}"


def false_digits(data: bytearray, draw: Random, spots: Sequence[int]) -> str:
    """Change a digit of text, such as a shape or an offset in JSON, or a digit in a name."""
    digits = [place for place in range(min(len(data), 1 << 16)) if 48 <= data[place] <= 57]
    if not digits:
        return flip_bits(data, draw, spots)
    place, digit = draw.choice(digits), draw.choice((b"0", b"1", b"9", b"99999999", b"-1", b"1e9"))
    data[place : place + 1] = digit
    return f"{digit.decode()} at {place}"


def remove_bytes(data: bytearray, draw: Random, spots: Sequence[int]) -> str:
    place, count = _place(data, draw, spots), draw.choice((1, 2, 8, 100, 4096))
    del data[place : place + count]
    return f"{count} at {place}"


def insert_bytes(data: bytearray, draw: Random, spots: Sequence[int]) -> str:
    place, count = _place(data, draw, spots), draw.choice((1, 2, 8, 100, 4096))
    seed = draw.randrange(1 << 16)
    data[place:place] = Random(seed).randbytes(count)
    return f"{count} random ones (seed {seed}) at {place}"


def repeat_bytes(data: bytearray, draw: Random, spots: Sequence[int]) -> str:
    """Copy a range over another place, such as one header over another."""
    source, target, count = _place(data, draw, spots), _place(data, draw, spots), draw.choice((4, 16, 64, 512))
    piece = data[source : source + count]
    data[target : target + len(piece)] = piece
    return f"{count} bytes from {source} to {target}"


def fill(data: bytearray, draw: Random, spots: Sequence[int]) -> str:
    place, count, value = _place(data, draw, spots), draw.choice((1, 4, 16, 512)), draw.choice((0, 255))
    count = min(count, len(data) - place)
    data[place : place + count] = bytes([value]) * count
    return f"{count} bytes of {value} at {place}"


def false_word(data: bytearray, draw: Random, spots: Sequence[int]) -> str:
    """Replace a word, a number or a quoted text by something of another type or size."""
    words = list(_WORD.finditer(data))
    if not words:
        return flip_bits(data, draw, spots)
    word, other = draw.choice(words), draw.choice(FALSE_WORDS)
    data[word.start() : word.end()] = other
    return f"{other[:40]!r}{'...' if len(other) > 40 else ''} for {bytes(word[0])!r} at {word.start()}"


def move_word(data: bytearray, draw: Random, spots: Sequence[int]) -> str:
    """Replace a word by another one of the file, such as a key by another key."""
    words = list(_WORD.finditer(data))
    if not words:
        return flip_bits(data, draw, spots)
    word, other = draw.choice(words), bytes(draw.choice(words)[0])
    data[word.start() : word.end()] = other
    return f"{other!r} for {bytes(word[0])!r} at {word.start()}"


def change_lines(data: bytearray, draw: Random, spots: Sequence[int]) -> str:
    """Remove, repeat or indent a line."""
    lines = data.splitlines(keepends=True)
    number, change = draw.randrange(max(1, len(lines))), draw.choice(("removed", "repeated", "indented"))
    line = lines[number] if lines else b""
    lines[number : number + 1] = {"removed": [], "repeated": [line, line], "indented": [b"  " + line]}[change]
    data[:] = b"".join(lines)
    return f"line {number + 1} {change}"


_WORD = re.compile(rb'"[^"\n]*"|[\w.+#-]+|[\[\]{}:,]')
"""A quoted text, a word or number, or a sign of JSON and YAML."""

FALSE_WORDS = (
    *(b"", b"null", b"true", b"[]", b"{}", b"[[1, 2], [3]]", b'{"a": 1}', b'""', b"~", b"!!python/object:os.system {}"),
    *(
        b"0",
        b"-1",
        b"255",
        b"256",
        b"65536",
        b"2.5",
        b"1e9",
        b"1e309",
        b"-1e309",
        b"NaN",
        b".nan",
        b".inf",
        b"0x7fffffff",
    ),
    *(b"99999999", b"9" * 20, b"9" * 400, b"9" * 5000),
    *(
        b'"\\ud800"',
        b'"\\u0000"',
        b"\xff\xfe",
        b"\x00",
        b"\t",
        b"\n",
        b"..",
        b"/",
        b"../../../etc/passwd",
        b"*a",
        b"&a [*a]",
    ),
    *(b"x" * 5000, b"[" * 5000, b'{"a":' * 5000, b"2021-01-01"),
)
"""Values that a parser may take for another type, or that are too large, too deep, or not of any text."""

ACTIONS: tuple[Action, ...] = (
    flip_bits,
    flip_bits,
    truncate,
    false_number,
    false_number,
    false_varint,
    false_digits,
    remove_bytes,
    insert_bytes,
    repeat_bytes,
    fill,
)
TEXT_ACTIONS: tuple[Action, ...] = (
    *(false_word,) * 6,
    *(move_word,) * 2,
    *(change_lines,) * 2,
    flip_bits,
    truncate,
    false_digits,
    remove_bytes,
    insert_bytes,
    repeat_bytes,
)
