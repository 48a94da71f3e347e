"""Read protocol buffers field by field, without their schema's generated code.

A message is a sequence of fields: a key (field number and wire type), then a value. Values are views of the buffer, so
reading a file costs no memory beyond its own size; every length is checked against the buffer before it is used.

Source: "Encoding" in the documentation of Protocol Buffers (protobuf.dev).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
"""Wire types; `BYTES` are bytes, text, messages and packed numbers."""

_LARGEST_FIELD_NUMBER = 2**29 - 1
_MOST_FIELDS = 1_000_000


class ProtobufError(ValueError):
    """A buffer that is no valid message; importers turn it into an `AtrousError` that names the file."""


class Field(NamedTuple):
    """One field of a message: a `VARINT` as an unsigned integer, other types as a view of their bytes."""

    number: int
    wire_type: int
    value: int | memoryview

    @property
    def integer(self) -> int:
        """The value as an unsigned integer. Raises: `ProtobufError` for other types."""
        if not isinstance(self.value, int):
            raise ProtobufError(f"field {self.number} has wire type {self.wire_type}, expected an integer")
        return self.value

    @property
    def signed(self) -> int:
        """The value as a signed integer (`int32`, `int64`). Raises: `ProtobufError` for other types."""
        return self.integer - (1 << 64 if self.integer >= 1 << 63 else 0)

    @property
    def data(self) -> memoryview:
        """The bytes of a text, a message or packed numbers. Raises: `ProtobufError` for other types."""
        if self.wire_type != BYTES or isinstance(self.value, int):
            raise ProtobufError(f"field {self.number} has wire type {self.wire_type}, expected bytes")
        return self.value

    @property
    def text(self) -> str:
        """The value as text. Raises: `ProtobufError` for other types and invalid UTF-8."""
        try:
            return str(self.data, "utf-8")
        except UnicodeDecodeError as error:
            raise ProtobufError(f"field {self.number} is not valid text") from error


def fields(buffer: memoryview | bytes, *, limit: int = _MOST_FIELDS) -> Iterator[Field]:
    """Iterate over the fields of a message in their order in the buffer.

    Raises: `ProtobufError` for a field that is invalid or longer than the rest of the buffer, and after `limit` fields,
    so that a large file of tiny fields takes no hours.
    """
    view = memoryview(buffer).cast("B")
    position, end = 0, len(view)
    count = 0
    while position < end:
        count += 1
        if count > limit:
            raise ProtobufError(f"a message has more than {limit} fields")
        key, position = read_varint(view, position)
        number, wire_type = key >> 3, key & 7
        if not 1 <= number <= _LARGEST_FIELD_NUMBER:
            raise ProtobufError(f"invalid field number {number}")
        if wire_type == VARINT:
            value, position = read_varint(view, position)
            yield Field(number, wire_type, value)
            continue
        if wire_type == BYTES:
            length, position = read_varint(view, position)
        elif wire_type in (FIXED32, FIXED64):
            length = 4 if wire_type == FIXED32 else 8
        else:
            raise ProtobufError(f"field {number} has the unsupported wire type {wire_type}")
        if length > end - position:
            raise ProtobufError(f"field {number} claims {length} bytes of the {end - position} that are left")
        yield Field(number, wire_type, view[position : position + length])
        position += length


def integers(field: Field) -> Iterator[int]:
    """Iterate over the numbers of a repeated `int32` or `int64`: one, or several that are packed.

    Raises: `ProtobufError` for a field of another type.
    """
    if field.wire_type == VARINT:
        yield field.signed
        return
    position = 0
    while position < len(field.data):
        value, position = read_varint(field.data, position)
        yield value - (1 << 64 if value >= 1 << 63 else 0)


def floats(repeated: Iterable[Field], *, double: bool = False) -> NDArray[np.float32] | NDArray[np.float64]:
    """Join the numbers of a repeated `float` or `double`, packed or not; a single packed field is not copied.

    Raises: `ProtobufError` for fields of another type, or a length that is not a multiple of a number's.
    """
    single, dtype = (FIXED64, "<f8") if double else (FIXED32, "<f4")
    joined: memoryview | bytearray = memoryview(b"")
    for field in repeated:
        if field.wire_type not in (BYTES, single) or isinstance(field.value, int):
            raise ProtobufError(f"field {field.number} has wire type {field.wire_type}, expected numbers")
        if len(field.value) % np.dtype(dtype).itemsize:
            raise ProtobufError(f"field {field.number} has {len(field.value)} bytes, which are no whole numbers")
        if not joined:
            joined = field.value
        else:
            joined = joined if isinstance(joined, bytearray) else bytearray(joined)
            joined += field.value
    return np.frombuffer(joined, dtype)


def read_varint(view: memoryview, position: int) -> tuple[int, int]:
    """Read an integer of up to 64 bits, 7 in each byte, the lowest first; return it and the position after it."""
    value = 0
    for shift, byte in zip(range(0, 70, 7), view[position : position + 10], strict=False):
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & 0xFFFFFFFFFFFFFFFF, position + shift // 7 + 1
    raise ProtobufError("an integer is longer than 10 bytes, or ends beyond the message")
