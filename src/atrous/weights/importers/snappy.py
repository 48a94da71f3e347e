"""Decompress Snappy, the compression of LevelDB's blocks.

TensorFlow writes the small index of a checkpoint uncompressed, but reads compressed ones; a loop in Python suffices for
them.

Source: `format_description.txt` of Snappy.
"""

from __future__ import annotations

_LONGEST_COPY, _COPY_BYTES = 64, 3
"""The element with the highest ratio: 3 bytes that repeat 64."""


class SnappyError(ValueError):
    """Data that Snappy did not write."""


def decompress(data: bytes) -> bytes:
    """Decompress a block of Snappy data.

    Raises: `SnappyError` for invalid data, before it takes more memory than such data can stand for.
    """
    size, position = _read_size(data)
    if size * _COPY_BYTES > len(data) * _LONGEST_COPY:
        raise SnappyError(f"{len(data)} bytes claim to contain {size}")
    output = bytearray()
    while position < len(data):
        tag = data[position]
        position += 1
        if tag & 3 == 0:
            position = _literal(data, position, tag >> 2, output)
            continue
        offset_bytes = (1, 2, 4)[(tag & 3) - 1]
        offset = int.from_bytes(data[position : position + offset_bytes], "little")
        length = (tag >> 2) + 1
        if offset_bytes == 1:
            length, offset = (tag >> 2 & 7) + 4, offset | tag >> 5 << 8
        position += offset_bytes
        if position > len(data) or not 0 < offset <= len(output):
            raise SnappyError("a copy refers to bytes before the first")
        start = len(output) - offset
        pattern = output[start : start + length]  # shorter than the copy if it overlaps itself
        output += (pattern * (length // len(pattern) + 1))[:length]
    if len(output) != size:
        raise SnappyError(f"{len(output)} bytes instead of {size}")
    return bytes(output)


def _read_size(data: bytes) -> tuple[int, int]:
    size = 0
    for index, byte in enumerate(data[:5]):
        size |= (byte & 127) << 7 * index
        if byte < 128:
            return size, index + 1
    raise SnappyError("no size at the beginning")


def _literal(data: bytes, position: int, code: int, output: bytearray) -> int:
    """Append bytes that follow as they are; return the position after them."""
    extra = max(code - 59, 0)  # codes 60 to 63: the length is in the next 1 to 4 bytes
    length = (int.from_bytes(data[position : position + extra], "little") if extra else code) + 1
    end = position + extra + length
    if end > len(data):
        raise SnappyError(f"a literal of {length} bytes ends beyond the data")
    output += data[position + extra : end]
    return end
