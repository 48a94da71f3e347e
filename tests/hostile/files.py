"""Undamaged files of every kind that is read, as small as their networks can be."""

from __future__ import annotations

import gzip
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import atrous
from atrous.card import Card, Preprocessing
from atrous.data.datasets import voc
from atrous.weights import save
from atrous.weights.importers.crc32c import masked_crc32c
from atrous.weights.importers.leveldb import TableError, _entries, _handle
from atrous.weights.importers.protobuf import BYTES, ProtobufError, fields
from tests.conftest import find_shared_data
from tests.contract.trained import imitate_training
from tests.hostile.kinds import Kind
from tests.weights.importers import caffe_nets
from tests.weights.importers.caffe_runtime import Net
from tests.weights.importers.tensorflow_writer import deeplab_variables, write_checkpoint
from tests.weights.importers.test_tensorflow import OPTIONS, SMALL, randomized, strided, write_archive, write_graph
from tests.weights.importers.test_torchvision import mobile_state

SOME = 60
"""How many files of each kind are damaged in `make test`: they take ten times as long as others."""

_IMPORT = ("import-weights", "{path}", "-o", "{out}/imported.safetensors")


def _safetensors(folder: Path) -> Path:
    model = atrous.create_model("deeplab_v3.mobilenet_v2", width=0.125)
    card = Card(
        model="deeplab_v3.mobilenet_v2",
        arguments={"width": 0.125},
        classes=voc.CLASSES,
        colors=voc.COLORS,
        preprocessing=Preprocessing(resize="pad", size=(65, 65)),
    )
    return save(model, folder / "own.safetensors", card=card)


def _torchvision(folder: Path) -> dict[str, torch.Tensor]:
    options = {"output_stride": 16, "backbone_options": {"layout": "torchvision"}}
    network = atrous.create_model("lraspp.mobilenet_v3_large", **options)
    imitate_training(network)
    return mobile_state("lraspp", network)


def _state_dict_safetensors(folder: Path) -> Path:
    save_file(_torchvision(folder), folder / "state.safetensors")
    return folder / "state.safetensors"


def _pth(folder: Path) -> Path:
    torch.save(_torchvision(folder), folder / "state.pth")
    return folder / "state.pth"


def _legacy_pth(folder: Path) -> Path:
    torch.save(_torchvision(folder), folder / "legacy.pth", _use_new_zipfile_serialization=False)
    return folder / "legacy.pth"


def _caffemodel(folder: Path) -> Path:
    net = Net(width=1 / 16)
    caffe_nets.deeplab_v1(net, net.image(65, 81))
    return net.write(folder / "net.caffemodel")


def _caffemodel_v1(folder: Path) -> Path:
    net = Net(width=1 / 16, v1=True)
    caffe_nets.deeplab_v1(net, net.image(65, 81))
    return net.write(folder / "net.caffemodel")


def _caffemodel_normalized(folder: Path) -> Path:
    net = Net(width=1 / 16)
    caffe_nets.deeplab_v2_resnet(net, net.image(65, 81))
    return net.write(folder / "net.caffemodel")


def _tensorflow(folder: Path) -> dict[str, np.ndarray]:
    model = randomized(atrous.create_model(SMALL, num_classes=5, **OPTIONS))
    return deeplab_variables(model, "MobilenetV2")


def _checkpoint(folder: Path) -> Path:
    return write_checkpoint(folder / "model.ckpt", _tensorflow(folder))


def _archive(folder: Path) -> Path:
    files = folder / "deeplab"
    files.mkdir()
    write_checkpoint(files / "model.ckpt", _tensorflow(folder))
    members = {f"deeplab/{path.name}": path.read_bytes() for path in sorted(files.iterdir())}
    return write_archive(folder / "deeplab.tar.gz", members)


def _frozen_graph(folder: Path) -> Path:
    return write_graph(folder / "frozen.pb", _tensorflow(folder), *strided(4))


def _tflite(folder: Path) -> Path:
    data = find_shared_data()
    if data is None:
        pytest.skip("needs the folder of real data: set ATROUS_TEST_DATA")
    path = folder / "graph.tflite"
    path.write_bytes((data / "weights" / "deeplabv3_257_mv_gpu.tflite").read_bytes())
    return path


def _gzip(content: bytes) -> bytes:
    return gzip.compress(content, 1, mtime=0)


def right_checksums(table: bytes) -> bytes:
    """Correct the checksums of the blocks of a damaged LevelDB table, as far as its footer and its index are valid."""
    corrected = bytearray(table)
    try:
        footer = memoryview(table)[-48:-8]
        index = _handle(footer, _handle(footer, 0)[1])[0]
        _correct(corrected, index)
        content = memoryview(bytes(corrected[index[0] : sum(index)]))
        for _, location in _entries(content):
            _correct(corrected, _handle(location, 0)[0])
    except (TableError, ProtobufError, IndexError):
        pass
    return bytes(corrected)


def _correct(table: bytearray, block: tuple[int, int]) -> None:
    offset, size = block
    if offset + size + 5 <= len(table) - 48:
        checksum = masked_crc32c(bytes(table[offset : offset + size + 1]))
        table[offset + size + 1 : offset + size + 5] = checksum.to_bytes(4, "little")


def right_archive_checksums(content: bytes) -> bytes:
    """Correct the checksums in the directory of a damaged archive of `torch.save`, as far as the archive is valid."""
    corrected = bytearray(content)
    try:
        with zipfile.ZipFile(BytesIO(content)) as archive:
            position = archive.start_dir
            for part in archive.infolist():
                name, extra, comment = struct.unpack_from("<3H", content, position + 28)
                begin = _begin(content, part)
                checksum = zlib.crc32(content[begin : begin + part.file_size])
                struct.pack_into("<I", corrected, position + 16, checksum)
                position += 46 + name + extra + comment
    except (zipfile.BadZipFile, struct.error, NotImplementedError, ValueError, OverflowError):
        pass
    return bytes(corrected)


def _begin(content: bytes, part: zipfile.ZipInfo) -> int:
    """Find where the data of a part of an archive begin."""
    return part.header_offset + 30 + sum(struct.unpack_from("<2H", content, part.header_offset + 26))


def pickle_spots(content: bytes) -> list[int]:
    """List the positions of the pickle in an archive of `torch.save`."""
    with zipfile.ZipFile(BytesIO(content)) as archive:
        part = next(part for part in archive.infolist() if part.filename.endswith("data.pkl"))
    return list(range(_begin(content, part), _begin(content, part) + part.file_size))


def message_spots(content: bytes) -> list[int]:
    """List where the fields of nested messages of protocol buffers begin."""
    return list(_spots(memoryview(content), 0, depth=0))


def _spots(view: memoryview, start: int, depth: int) -> Iterator[int]:
    try:
        entries = list(fields(view))
    except ProtobufError:  # no message, but text or numbers
        return
    position = 0
    for entry in entries:
        yield start + position
        position += _varint_length(view, position)
        if isinstance(entry.value, int):
            position += _varint_length(view, position)
            continue
        if entry.wire_type == BYTES:
            position += _varint_length(view, position)
            if depth < 4 and 0 < len(entry.value) < 1 << 16:
                yield from _spots(entry.value, start + position, depth + 1)
        position += len(entry.value)


def _varint_length(view: memoryview, position: int) -> int:
    return next(count for count in range(1, 11) if not view[position + count - 1] & 128)


def _kind(
    write: Callable[[Path], Path], spots: Callable[[bytes], list[int]] = lambda content: [], **options: Any
) -> Kind:
    return Kind(write, "weights", _IMPORT, spots=spots, every=6, some=SOME, **options)


WEIGHTS = {
    "safetensors": _kind(_safetensors),
    "safetensors of another library": _kind(_state_dict_safetensors),
    "pth": _kind(_pth),
    "pth with right checksums": _kind(_pth, pickle_spots, wrap=right_archive_checksums),
    "pth before torch 1.6": _kind(_legacy_pth),
    "caffemodel": _kind(_caffemodel, message_spots),
    "caffemodel of 2014": _kind(_caffemodel_v1, message_spots),
    "caffemodel with batch normalization": _kind(_caffemodel_normalized, message_spots),
    "tensorflow index": _kind(_checkpoint),
    "tensorflow index with right checksums": _kind(_checkpoint, wrap=right_checksums),
    "tensorflow data": _kind(_checkpoint, damaged=".data-00000-of-00001"),
    "tensorflow archive": _kind(_archive),
    "tensorflow archive, damaged before compression": _kind(_archive, unwrap=gzip.decompress, wrap=_gzip),
    "pb": _kind(_frozen_graph, message_spots),
    "tflite": _kind(_tflite, lambda content: list(range(len(content) - 40_000, len(content), 4))),
}
"""The kinds of weights that are damaged."""
