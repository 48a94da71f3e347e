"""The wire format of protocol buffers: every type of field, and damaged messages."""

import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from atrous.weights.importers.protobuf import BYTES, FIXED32, FIXED64, VARINT, ProtobufError, fields, floats, integers
from tests.weights.importers.protobuf_writer import (
    double_field,
    float_field,
    message,
    packed_floats,
    varint,
    varint_field,
)


def read(data: bytes) -> list[tuple[int, int, object]]:
    return [(f.number, f.wire_type, f.value if isinstance(f.value, int) else bytes(f.value)) for f in fields(data)]


def test_documented_encodings_of_protobuf():
    # protobuf.dev/programming-guides/encoding: a: 150 and b: "testing"
    assert read(bytes.fromhex("089601")) == [(1, VARINT, 150)]
    assert read(bytes.fromhex("120774657374696e67")) == [(2, BYTES, b"testing")]
    assert [list(integers(f)) for f in fields(bytes.fromhex("3206038e029ea705"))] == [[3, 270, 86942]]


def test_every_wire_type_is_read():
    data = varint_field(1, 7) + float_field(2, 0.5) + double_field(3, 0.25) + message(400, b"inner")
    expected = [(1, VARINT, 7), (2, FIXED32, struct.pack("<f", 0.5)), (3, FIXED64, struct.pack("<d", 0.25))]
    assert read(data) == [*expected, (400, BYTES, b"inner")]


@given(st.integers(-(2**63), 2**63 - 1))
def test_signed_integers_are_read_alone_and_packed(value):
    (field,) = fields(varint_field(1, value))
    assert field.signed == value
    assert list(integers(field)) == [value]
    (packed,) = fields(message(1, varint(value) + varint(3)))
    assert list(integers(packed)) == [value, 3]


def test_floats_are_joined_whether_packed_or_not():
    data = packed_floats(5, np.array([1, 2], np.float32)) + float_field(5, 3.0) + packed_floats(5, np.zeros(0, "f4"))
    np.testing.assert_array_equal(floats(fields(data)), [1, 2, 3])
    np.testing.assert_array_equal(floats(fields(double_field(8, 0.1)), double=True), [0.1])
    assert floats([]).shape == (0,)


def test_a_packed_array_is_a_view_of_the_buffer():
    data = packed_floats(5, np.arange(1000, dtype=np.float32))
    array = floats(fields(data))
    assert not array.flags.owndata
    assert np.shares_memory(array, np.frombuffer(data, np.uint8))


def test_text_must_be_valid():
    (field,) = fields(message(1, "größe".encode()))
    assert field.text == "größe"
    (broken,) = fields(message(1, b"\xff"))
    with pytest.raises(ProtobufError, match="field 1 is not valid text"):
        _ = broken.text


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"\x00", "invalid field number 0"),
        (b"\x0b", "unsupported wire type 3"),
        (b"\x0f", "unsupported wire type 7"),
        (b"\x0a\x05abc", "claims 5 bytes of the 3"),
        (b"\x0a" + varint(2**63) + b"abc", "claims 9223372036854775808 bytes of the 3"),
        (b"\x0d\x00", "claims 4 bytes of the 1"),
        (b"\x08", "longer than 10 bytes, or ends"),
        (b"\x08\xff", "longer than 10 bytes, or ends"),
        (b"\xff" * 11, "longer than 10 bytes"),
    ],
)
def test_invalid_messages_are_refused(data, problem):
    with pytest.raises(ProtobufError, match=problem):
        read(data)


def test_more_fields_than_the_limit_are_refused():
    data = varint_field(1, 0) * 5
    assert len(list(fields(data, limit=5))) == 5
    with pytest.raises(ProtobufError, match="more than 4 fields"):
        list(fields(data, limit=4))


def test_fields_of_another_type_are_refused():
    number, data = fields(varint_field(1, 7) + message(2, b"abc"))
    for name in ("data", "text"):
        with pytest.raises(ProtobufError, match="field 1 has wire type 0, expected bytes"):
            getattr(number, name)
    for name in ("integer", "signed"):
        with pytest.raises(ProtobufError, match="field 2 has wire type 2, expected an integer"):
            getattr(data, name)
    with pytest.raises(ProtobufError, match="expected numbers"):
        floats([number])
    with pytest.raises(ProtobufError, match="3 bytes, which are no whole numbers"):
        floats([data])
    with pytest.raises(ProtobufError, match="ends beyond"):
        list(integers(next(fields(message(1, b"\x80")))))


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(data):
    try:
        found = read(data)
    except ProtobufError:
        return
    assert sum(len(value) for _, _, value in found if isinstance(value, bytes)) <= len(data)
