"""Snappy: every kind of element, and invalid data."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atrous.weights.importers.snappy import SnappyError, decompress
from tests.weights.importers.protobuf_writer import varint


def literal(data: bytes) -> bytes:
    length = len(data) - 1
    if length < 60:
        return bytes([length << 2]) + data
    extra = (length.bit_length() + 7) // 8
    return bytes([59 + extra << 2]) + length.to_bytes(extra, "little") + data


def copy(offset: int, length: int, offset_bytes: int) -> bytes:
    if offset_bytes == 1:
        return bytes([1 | length - 4 << 2 | offset >> 8 << 5, offset & 255])
    return bytes([{2: 2, 4: 3}[offset_bytes] | length - 1 << 2]) + offset.to_bytes(offset_bytes, "little")


def compress(data: bytes) -> bytes:
    """Compress runs of one byte, and store the rest."""
    output, position = bytearray(varint(len(data))), 0
    while position < len(data):
        end = position
        while end < len(data) and data[end] == data[position] and end - position < 65:
            end += 1
        output += literal(data[position : position + 1])
        if end - position > 1:
            output += copy(1, end - position - 1, 2)
        position = end
    return bytes(output)


@given(st.binary(max_size=300))
def test_literals_of_every_length(data: bytes) -> None:
    assert decompress(varint(len(data)) + (literal(data) if data else b"")) == data


@given(st.lists(st.tuples(st.integers(0, 255), st.integers(1, 200))))
def test_runs_overlap_themselves(runs: list[tuple[int, int]]) -> None:
    data = b"".join(bytes([value]) * count for value, count in runs)
    assert decompress(compress(data)) == data


@pytest.mark.parametrize(("offset", "offset_bytes"), [(4, 1), (4, 2), (4, 4), (300, 2), (300, 1), (2000, 1)])
def test_copies_with_offsets_of_every_width(offset: int, offset_bytes: int) -> None:
    start = bytes(range(256)) * 8
    data = varint(len(start) + 9) + literal(start) + copy(offset, 9, offset_bytes)
    assert decompress(data) == start + (start[-offset:] * 9)[:9]


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"", "no size"),
        (b"\xff" * 6, "no size"),
        (varint(2**31) + literal(b"abc"), "claim to contain 2147483648"),
        (varint(3) + b"\x10ab", "literal of 5 bytes ends beyond"),
        (varint(3) + b"\xfc\xff\xff", "ends beyond"),
        (varint(9) + literal(b"a") + copy(2, 8, 2), "before the first"),
        (varint(9) + literal(b"a") + copy(0, 8, 2), "before the first"),
        (varint(9) + literal(b"a") + copy(1, 8, 2)[:2], "before the first"),
        (varint(4) + literal(b"abc"), "3 bytes instead of 4"),
    ],
)
def test_invalid_data_is_refused(data: bytes, problem: str) -> None:
    with pytest.raises(SnappyError, match=problem):
        decompress(data)


@given(st.binary(max_size=100))
def test_any_bytes_are_decompressed_or_refused(data: bytes) -> None:
    with suppress(SnappyError):
        assert len(decompress(data)) <= 22 * len(data)
