"""Read LevelDB tables, in which TensorFlow stores the index of a checkpoint: sorted keys with values, in blocks.

A table ends in a footer that locates the index block; its entries locate the data blocks. Every block carries a
CRC-32C, which is checked before anything in the block is used.

Source: LevelDB's `doc/table_format.md`.
"""

from __future__ import annotations

from collections.abc import Iterator

from atrous.weights.importers.crc32c import masked_crc32c
from atrous.weights.importers.formats import TABLE_MAGIC
from atrous.weights.importers.protobuf import ProtobufError, read_varint
from atrous.weights.importers.snappy import SnappyError, decompress

_FOOTER, _TRAILER = 48, 5
_UNCOMPRESSED, _SNAPPY = 0, 1
_LONGEST_KEY = 4096
_ALL_KEYS = 64 * 2**20
"""Limits in bytes. Keys are stored as differences from the key before, so a small file could stand for long keys."""


class TableError(ValueError):
    """A table that is damaged; importers turn it into an `AtrousError` that names the file."""


def read_table(data: bytes) -> Iterator[tuple[bytes, memoryview]]:
    """Iterate over the keys and values of a table, in the order of the keys.

    Raises: `TableError` for a table that is truncated, altered or not sorted.
    """
    if len(data) < _FOOTER or data[-8:] != TABLE_MAGIC:
        raise TableError("it does not end as a table")
    footer = memoryview(data)[-_FOOTER:-8]
    try:
        _, position = _handle(footer, 0)
        index, _ = _handle(footer, position)
        last, total = None, 0
        for _, location in _entries(_block(data, index)):
            for key, value in _entries(_block(data, _handle(location, 0)[0])):
                if last is not None and key <= last:
                    raise TableError("its keys are not sorted")
                last, total = key, total + len(key)
                if total > _ALL_KEYS:
                    raise TableError("its keys are too long")
                yield key, value
    except (ProtobufError, SnappyError) as error:
        raise TableError(str(error)) from error


def _handle(view: memoryview, position: int) -> tuple[tuple[int, int], int]:
    """Read the offset and size of a block; return them and the position after them."""
    offset, position = read_varint(view, position)
    size, position = read_varint(view, position)
    return (offset, size), position


def _block(data: bytes, handle: tuple[int, int]) -> memoryview:
    offset, size = handle
    end = offset + size + _TRAILER
    if end > len(data) - _FOOTER:
        raise TableError(f"a block at {offset} of {size} bytes ends beyond the file")
    view = memoryview(data)[offset:end]
    kind, stored = view[size], int.from_bytes(view[size + 1 :], "little")
    if masked_crc32c(view[: size + 1]) != stored:
        raise TableError(f"the checksum of the block at {offset} differs")
    if kind == _SNAPPY:
        return memoryview(decompress(bytes(view[:size])))
    if kind != _UNCOMPRESSED:
        raise TableError(f"the block at {offset} has the unknown compression {kind}")
    return view[:size]


def _entries(block: memoryview) -> Iterator[tuple[bytes, memoryview]]:
    """Iterate over the entries of a block; each key repeats the beginning of the key before."""
    restarts = int.from_bytes(block[-4:], "little") if len(block) >= 4 else 0
    end = len(block) - 4 - 4 * restarts
    if restarts < 1 or end < 0:
        raise TableError("a block has no valid list of restarts")
    position, key = 0, b""
    while position < end:
        shared, position = read_varint(block, position)
        added, position = read_varint(block, position)
        size, position = read_varint(block, position)
        if shared > len(key) or shared + added > _LONGEST_KEY or position + added + size > end:
            raise TableError("an entry ends beyond its block")
        key = key[:shared] + bytes(block[position : position + added])
        yield key, block[position + added : position + added + size]
        position += added + size
