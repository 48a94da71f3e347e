"""LevelDB tables: several blocks, repeated beginnings of keys, compression, and damage."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atrous.weights.importers.leveldb import TableError, read_table
from tests.weights.importers.tensorflow_writer import write_table
from tests.weights.importers.test_snappy import compress

ENTRIES = {f"net/layer_{index:03d}/weights".encode(): bytes([index]) * 4 * index for index in range(40)}
"""Keys with common beginnings; more than one block of them."""


def read(table: bytes) -> dict[bytes, bytes]:
    return {key: bytes(value) for key, value in read_table(table)}


@given(st.dictionaries(st.binary(max_size=20), st.binary(max_size=40), max_size=30), st.integers(1, 9))
def test_what_was_written_is_read(entries: dict[bytes, bytes], per_block: int) -> None:
    assert read(write_table(sorted(entries.items()), per_block=per_block)) == entries


def test_compressed_blocks_are_read() -> None:
    table = write_table(sorted(ENTRIES.items()), compress=compress)
    assert len(table) < len(write_table(sorted(ENTRIES.items())))
    assert read(table) == ENTRIES


def test_every_changed_bit_of_a_block_is_noticed() -> None:
    table = write_table(sorted(ENTRIES.items()))
    for position in range(0, len(table) - 48, 7):
        damaged = bytearray(table)
        damaged[position] ^= 1 << position % 8
        try:
            assert read(bytes(damaged)) == ENTRIES  # the unused block of metadata
        except TableError:
            continue
        assert position > len(table) - 48 - 200


@pytest.mark.parametrize(
    ("table", "problem"),
    [
        (b"", "does not end as a table"),
        (write_table([])[1:-1], "does not end as a table"),
        (write_table(sorted(ENTRIES.items()))[100:], "ends beyond the file|checksum"),
        (write_table([(b"b", b""), (b"a", b"")]), "not sorted"),
        (write_table([(b"a", b""), (b"a", b"")]), "not sorted"),
        (write_table([(b"a" * 5000, b"")]), "ends beyond its block"),
        (write_table(sorted(ENTRIES.items()), compress=lambda block: block), "before the first|claim|bytes|ends"),
    ],
)
def test_damaged_tables_are_refused(table: bytes, problem: str) -> None:
    with pytest.raises(TableError, match=problem):
        read(table)


def test_keys_cannot_take_more_memory_than_a_limit() -> None:
    entries = [(b"k" * 4000 + index.to_bytes(4, "big"), b"") for index in range(20_000)]
    table = write_table(entries, per_block=20_000)
    assert len(table) < 10**6
    with pytest.raises(TableError, match="keys are too long"):
        read(table)


@given(st.binary(max_size=200))
def test_any_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(TableError):
        read(data + write_table([])[-8:])
