"""Read variables from TensorFlow's V2 checkpoints ("tensor bundles"), without TensorFlow.

A checkpoint PREFIX is an index, `PREFIX.index`, a table of the variables by name (type, shape, place, checksum), and
their values in `PREFIX.data-00000-of-00001` or several such shards. The index is read at once, the values one by one;
each is checked against its CRC-32C. Types, shapes and places are checked against the size of the files before any
memory is taken for values.

Source: TensorFlow's `tensor_bundle.proto` and `tensor_bundle.h`.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from atrous.errors import AtrousError
from atrous.weights.importers.crc32c import masked_crc32c
from atrous.weights.importers.leveldb import TableError, read_table
from atrous.weights.importers.protobuf import BYTES, FIXED32, ProtobufError, fields
from atrous.weights.tensors import damaged_file_error

_FLOATS: dict[int, np.dtype[Any]] = {1: np.dtype("<f4"), 2: np.dtype("<f8"), 19: np.dtype("<f2")}
"""TensorFlow's numbers of the types that weights have."""

_BUNDLE_VERSION = 1
_MOST_SHARDS, _MOST_VARIABLES, _MOST_SIDES = 1000, 100_000, 8


@dataclass(frozen=True)
class Shard:
    """An open file of values, and its size in bytes."""

    file: BinaryIO
    size: int


OpenShard = Callable[[str], Shard]
"""Opens a file of the checkpoint by its ending, such as ".data-00000-of-00001"."""


@dataclass(frozen=True)
class Entry:
    """One variable: its type (TensorFlow's number), shape, and place in the shards."""

    kind: int = 0
    shape: tuple[int, ...] = ()
    shard: int = 0
    offset: int = 0
    size: int = 0
    crc: int = 0
    is_partitioned: bool = False


class Bundle:
    """The variables of a checkpoint; `path` is the file that errors name, `index` the content of its index.

    Raises: `AtrousError` for an index that is damaged, of the old V1 format, or from a big-endian machine.
    """

    def __init__(self, path: Path, index: bytes, open_shard: OpenShard) -> None:
        self.path = path
        self._open_shard = open_shard
        self._shards: dict[int, Shard] = {}
        self._count, self._entries = self._read_index(index)
        self._check_places()

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shapes of the variables by name."""
        return {name: entry.shape for name, entry in self._entries.items()}

    def in_file_order(self, names: set[str]) -> list[str]:
        """Sort names by their places in the shards, the order in which an archive is read fastest."""
        return sorted(names, key=lambda name: (self._entries[name].shard, self._entries[name].offset))

    def read(self, name: str) -> NDArray[np.floating]:
        """Read the values of a variable.

        Raises: `AtrousError` for a variable that is not of floats or is split into slices, and a damaged or missing
        shard.
        """
        entry = self._entries[name]
        if entry.is_partitioned or entry.kind not in _FLOATS:
            problem = "is split into slices" if entry.is_partitioned else f"has the type {entry.kind}"
            raise AtrousError(
                f"{self.path}: the variable {name} {problem}; expected 16-, 32- or 64-bit floats in one piece. Save "
                "the checkpoint again without partitioned or quantized variables."
            )
        values, shard = bytearray(entry.size), self._shard(entry.shard)
        try:
            shard.file.seek(entry.offset)
            count = shard.file.readinto(values)  # type: ignore[attr-defined]
        except (OSError, EOFError, ValueError) as error:
            raise self._damaged(f"{name} is unreadable: {error}") from error
        if count != entry.size or masked_crc32c(values) != entry.crc:
            raise self._damaged(f"the checksum of {name} differs")
        return np.frombuffer(values, _FLOATS[entry.kind]).reshape(entry.shape)

    def _check_places(self) -> None:
        """Check that the values of all variables fit into the shards, side by side, and fit their shapes."""
        totals: dict[int, int] = {}
        for name, entry in self._entries.items():
            if entry.kind in _FLOATS and not entry.is_partitioned:
                count = math.prod(entry.shape)
                if count < 1 or entry.size != count * _FLOATS[entry.kind].itemsize:
                    raise self._damaged(f"{name} has {entry.size} bytes for the shape {entry.shape}")
            if entry.shard >= self._count:
                raise self._damaged(f"{name} is in shard {entry.shard} of {self._count}")
            totals[entry.shard] = totals.get(entry.shard, 0) + entry.size
            size = self._shard(entry.shard).size
            if max(entry.offset + entry.size, totals[entry.shard]) > size:
                raise self._damaged(f"{name} ends beyond the {size} bytes of its shard")

    def _shard(self, number: int) -> Shard:
        if number not in self._shards:
            self._shards[number] = self._open_shard(f".data-{number:05d}-of-{self._count:05d}")
        return self._shards[number]

    def _read_index(self, index: bytes) -> tuple[int, dict[str, Entry]]:
        """Read the number of shards and the variables."""
        shards, entries = 0, dict[str, Entry]()
        try:
            for key, value in read_table(index):
                if not key:
                    shards = self._read_header(value)
                elif not shards:
                    raise self._damaged("its header is missing")
                elif len(entries) == _MOST_VARIABLES:
                    raise self._damaged(f"it claims more than {_MOST_VARIABLES} variables")
                else:
                    entries[str(key, "utf-8")] = _read_entry(value)
        except (TableError, ProtobufError, UnicodeDecodeError, struct.error) as error:
            raise self._damaged(str(error)) from error
        if not shards:
            raise self._damaged("it is empty")
        return shards, entries

    def _read_header(self, value: memoryview) -> int:
        header = {field.number: field for field in fields(value)}
        if 1 in header and header[1].wire_type == BYTES:
            raise AtrousError(
                f"{self.path}: this checkpoint has TensorFlow's old V1 format, which is not supported. Restore it in "
                "TensorFlow, and save it with tf.train.Saver(write_version=tf.train.SaverDef.V2)."
            )
        if 2 in header and header[2].integer:
            raise AtrousError(
                f"{self.path}: this checkpoint was written on a big-endian machine, which is not supported. Restore "
                "and save it on another machine."
            )
        version = {field.number: field for field in fields(header[3].data)} if 3 in header else {}
        if 2 in version and version[2].integer > _BUNDLE_VERSION:
            raise AtrousError(
                f"{self.path}: this checkpoint needs a reader of version {version[2].integer}; expected "
                f"{_BUNDLE_VERSION}. Save it with an older TensorFlow."
            )
        count = header[1].integer if 1 in header else 0
        if not 1 <= count <= _MOST_SHARDS:
            raise self._damaged(f"it claims {count} shards")
        return count

    def _damaged(self, reason: str) -> AtrousError:
        return damaged_file_error(self.path, reason)


def _read_entry(message: memoryview) -> Entry:
    """Parse a `BundleEntryProto`."""
    values: dict[str, int] = {}
    shape: tuple[int, ...] = ()
    is_partitioned = False
    names = {1: "kind", 3: "shard", 4: "offset", 5: "size"}
    for field in fields(message):
        if field.number in names:
            values[names[field.number]] = field.integer
        elif field.number == 2:
            shape = read_shape(field.data)
        elif field.number == 6 and field.wire_type == FIXED32:
            (values["crc"],) = struct.unpack("<I", field.value)  # type: ignore[arg-type]
        elif field.number == 7:
            is_partitioned = True
    return Entry(**values, shape=shape, is_partitioned=is_partitioned)


def read_shape(message: memoryview) -> tuple[int, ...]:
    """Parse a `TensorShapeProto`.

    Raises: `ProtobufError` for a rank or a side that is not known.
    """
    sides: list[int] = []
    for field in fields(message):
        if field.number == 2:
            sides.append(next((part.signed for part in fields(field.data) if part.number == 1), 0))
        if len(sides) > _MOST_SIDES or (sides and sides[-1] < 0) or (field.number == 3 and field.integer):
            raise ProtobufError(f"a tensor has the shape {sides}")
    return tuple(sides)
