"""Write TensorFlow's files: checkpoints of the V2 format, LevelDB tables, frozen graphs, and DeepLab's variables."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from atrous.models import SegmentationModel
from atrous.weights.importers.crc32c import masked_crc32c
from atrous.weights.importers.formats import TABLE_MAGIC
from atrous.weights.importers.tensorflow import _CLASSIFIER_SOURCES, Sources, _list_sources
from atrous.weights.importers.tensorflow_names import network_layers
from tests.weights.importers.protobuf_writer import message, varint, varint_field

Arrays = Mapping[str, NDArray[Any]]
KINDS = {"float32": 1, "float64": 2, "int32": 3, "int64": 9, "float16": 19}


def write_table(
    entries: Iterable[tuple[bytes, bytes]], *, per_block: int = 5, compress: Callable | None = None
) -> bytes:
    """Write a LevelDB table with several blocks, whose keys repeat the beginnings of their predecessors."""
    rows, table, index = list(entries), bytearray(), []
    for start in range(0, max(len(rows), 1), per_block):
        rows_of_block = rows[start : start + per_block]
        handle = _append(table, _block(rows_of_block), compress)
        index.append((rows_of_block[-1][0] if rows_of_block else b"", handle))
    metaindex = _append(table, _block([]), None)
    footer = metaindex + _append(table, _block(index), None)
    return bytes(table + footer.ljust(40, b"\0") + TABLE_MAGIC)


def _block(rows: list[tuple[bytes, bytes]]) -> bytes:
    block, last = bytearray(), b""
    for key, value in rows:
        shared = next((i for i, (a, b) in enumerate(zip(key, last, strict=False)) if a != b), min(len(key), len(last)))
        block += varint(shared) + varint(len(key) - shared) + varint(len(value)) + key[shared:] + value
        last = key
    return bytes(block) + struct.pack("<II", 0, 1)


def _append(table: bytearray, block: bytes, compress: Callable | None) -> bytes:
    content = (block if compress is None else compress(block)) + (b"\0" if compress is None else b"\1")
    handle = varint(len(table)) + varint(len(content) - 1)
    table += content + struct.pack("<I", masked_crc32c(content))
    return handle


def shape_message(shape: Iterable[int]) -> bytes:
    return b"".join(message(2, varint_field(1, side)) for side in shape)


HEADER = varint_field(1, 1) + message(3, varint_field(1, 1))


def entry_message(array: NDArray[Any], offset: int, *, shard: int = 0, **changed: Any) -> bytes:
    """Write a `BundleEntryProto`; `changed` replaces what it says of the array."""
    told = {"shape": array.shape, "size": array.nbytes, "crc": masked_crc32c(array.tobytes()), **changed}
    return (
        varint_field(1, told.get("kind", KINDS[array.dtype.name]))
        + message(2, shape_message(told["shape"]))
        + varint_field(3, shard)
        + varint_field(4, offset)
        + varint_field(5, told["size"])
        + varint(6 << 3 | 5)
        + struct.pack("<I", told["crc"])
        + told.get("more", b"")
    )


def write_checkpoint(
    prefix: Path, arrays: Arrays, *, shards: int = 1, changed: Mapping[str, Any] | None = None, **table: Any
) -> Path:
    """Write a checkpoint and return its index; `changed` are false entries of single variables."""
    data = [bytearray() for _ in range(shards)]
    header = varint_field(1, shards) + message(3, varint_field(1, 1))
    rows = [(b"", header)]
    for number, name in enumerate(sorted(arrays)):
        shard, array = number % shards, np.ascontiguousarray(arrays[name])
        entry = entry_message(array, len(data[shard]), shard=shard, **(changed or {}).get(name, {}))
        rows.append((name.encode(), entry))
        data[shard] += array.tobytes()
    for shard, content in enumerate(data):
        prefix.with_name(f"{prefix.name}.data-{shard:05d}-of-{shards:05d}").write_bytes(content)
    index = prefix.with_name(prefix.name + ".index")
    index.write_bytes(write_table(rows, **table))
    return index


def network_sources(model: SegmentationModel, scope: str) -> Sources:
    return _list_sources(network_layers(model, scope)) | _CLASSIFIER_SOURCES


def deeplab_variables(model: SegmentationModel, scope: str) -> dict[str, NDArray[np.float32]]:
    """List the variables that TensorFlow DeepLab has for a network: the inverse of the import."""
    state = {key: value for key, value in model.state_dict().items() if "num_batches" not in key}
    if model.aspp.pooling is not None:
        weight = state["aspp.project.0.weight"]
        channels = weight.shape[0]
        state["aspp.project.0.weight"] = torch.cat([weight[:, -channels:], weight[:, :-channels]], 1)
    variables = {}
    for key, (name, order) in network_sources(model, scope).items():
        inverse = [order.index(axis) for axis in range(len(order))]
        variables[name] = state.pop(key).permute(*inverse).contiguous().numpy()
    assert not state, f"no variables for {list(state)}"
    return variables


def node(name: str, operation: str, *, inputs: Iterable[str] = (), **attributes: bytes) -> bytes:
    """Write a node of a graph, as a field of `GraphDef`."""
    content = message(1, name.encode()) + message(2, operation.encode())
    content += b"".join(message(3, each.encode()) for each in inputs)
    for key, value in attributes.items():
        content += message(5, message(1, key.encode()) + message(2, value))
    return message(1, content)


def constant(name: str, array: NDArray[Any]) -> bytes:
    """Write a constant with its values as bytes."""
    tensor = varint_field(1, KINDS[array.dtype.name]) + message(2, shape_message(array.shape))
    return node(name, "Const", value=message(8, tensor + message(4, array.tobytes())))


def numbers(values: Iterable[int]) -> bytes:
    """Write an attribute that is a list of integers, packed."""
    return message(1, message(3, b"".join(varint(value) for value in values)))
