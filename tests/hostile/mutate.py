"""Damage files reproducibly: flipped bits, truncation, false sizes and headers.

`mutate(content, seed)` always returns the same bytes for the same content and seed.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

MARGIN = 2048
"""Bytes at the beginning and at the end of a file where most formats have their headers and tables."""

EXTREMES = (0, 1, 2**7 - 1, 2**15 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**62, 2**63 - 1, 2**63, 2**64 - 1)
"""False sizes, shapes and offsets."""


def mutate(content: bytes, seed: str, spots: Sequence[int] = ()) -> tuple[bytes, str]:
    """Damage the content of a file in one way that the seed chooses; return it with a description of the damage.

    `spots` are positions of interest, such as keys, sizes and shapes; a third of the damages begins at one of them.
    """
    draw = random.Random(seed)
    data = bytearray(content)
    action = draw.choice(ACTIONS)
    done = action(data, draw, spots)
    return bytes(data), f"{action.__name__}: {done}"


def _place(data: bytearray, draw: random.Random, spots: Sequence[int]) -> int:
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


def flip_bits(data: bytearray, draw: random.Random, spots: Sequence[int]) -> str:
    places = [_place(data, draw, spots) for _ in range(draw.choice((1, 1, 1, 2, 8)))]
    for place in places:
        data[place] ^= 1 << draw.randrange(8)
    return f"at {places}"


def truncate(data: bytearray, draw: random.Random, spots: Sequence[int]) -> str:
    keep = _place(data, draw, spots)
    del data[keep:]
    return f"to {keep} bytes"


def false_number(data: bytearray, draw: random.Random, spots: Sequence[int]) -> str:
    """Overwrite bytes by an extreme number of 1 to 8 bytes, in either byte order."""
    place, width, value = _place(data, draw, spots), draw.choice((1, 2, 4, 8)), draw.choice(EXTREMES)
    order = draw.choice(("little", "big"))
    number = (value % (1 << 8 * width)).to_bytes(width, "little" if order == "little" else "big")
    data[place : place + width] = number[: len(data) - place]
    return f"{value} as {width} bytes ({order} endian) at {place}"


def false_varint(data: bytearray, draw: random.Random, spots: Sequence[int]) -> str:
    """Replace a byte by a number of protocol buffers' variable length, which moves all that follows."""
    place, value = _place(data, draw, spots), draw.choice(EXTREMES)
    encoded, rest = bytearray(), value
    while rest > 127:
        encoded.append(rest & 127 | 128)
        rest >>= 7
    encoded.append(rest)
    data[place : place + 1] = encoded
    return f"{value} at {place}"


def false_digits(data: bytearray, draw: random.Random, spots: Sequence[int]) -> str:
    """Change a digit of text, such as a shape or an offset in JSON, or a digit in a name."""
    digits = [place for place in range(min(len(data), 1 << 16)) if 48 <= data[place] <= 57]
    if not digits:
        return flip_bits(data, draw, spots)
    place, digit = draw.choice(digits), draw.choice((b"0", b"1", b"9", b"99999999", b"-1", b"1e9"))
    data[place : place + 1] = digit
    return f"{digit.decode()} at {place}"


def remove_bytes(data: bytearray, draw: random.Random, spots: Sequence[int]) -> str:
    place, count = _place(data, draw, spots), draw.choice((1, 2, 8, 100, 4096))
    del data[place : place + count]
    return f"{count} at {place}"


def insert_bytes(data: bytearray, draw: random.Random, spots: Sequence[int]) -> str:
    place, count = _place(data, draw, spots), draw.choice((1, 2, 8, 100, 4096))
    data[place:place] = draw.randbytes(count)
    return f"{count} random ones at {place}"


def repeat_bytes(data: bytearray, draw: random.Random, spots: Sequence[int]) -> str:
    """Copy a range over another place, such as one header over another."""
    source, target, count = _place(data, draw, spots), _place(data, draw, spots), draw.choice((4, 16, 64, 512))
    piece = data[source : source + count]
    data[target : target + len(piece)] = piece
    return f"{count} bytes from {source} to {target}"


def fill(data: bytearray, draw: random.Random, spots: Sequence[int]) -> str:
    place, count, value = _place(data, draw, spots), draw.choice((1, 4, 16, 512)), draw.choice((0, 255))
    count = min(count, len(data) - place)
    data[place : place + count] = bytes([value]) * count
    return f"{count} bytes of {value} at {place}"


ACTIONS: tuple[Callable[[bytearray, random.Random, Sequence[int]], str], ...] = (
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
