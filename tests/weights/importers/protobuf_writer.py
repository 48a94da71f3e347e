"""Write messages of protocol buffers, field by field."""

import struct

import numpy as np
from numpy.typing import NDArray


def varint(value: int) -> bytes:
    """Encode an integer; negative ones as 64 bits in two's complement."""
    value &= 2**64 - 1
    encoded = bytearray()
    while value >= 0x80:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*encoded, value])


def varint_field(number: int, value: int) -> bytes:
    return varint(number << 3) + varint(value)


def float_field(number: int, value: float) -> bytes:
    return varint(number << 3 | 5) + struct.pack("<f", value)


def double_field(number: int, value: float) -> bytes:
    return varint(number << 3 | 1) + struct.pack("<d", value)


def message(number: int, content: bytes) -> bytes:
    """Encode a field of bytes: a message, a text, or packed numbers."""
    return varint(number << 3 | 2) + varint(len(content)) + content


def packed_floats(number: int, values: NDArray[np.float32]) -> bytes:
    return message(number, values.astype("<f4").tobytes())
