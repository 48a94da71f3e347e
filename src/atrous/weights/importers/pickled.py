"""Survey files of `torch.save` before torch reads them: sizes that are false, and classes that are not torch's.

The pickles in a file are read once with a placeholder for every class and function that they name, so nothing of the
file runs, and no memory is taken for tensors. Their sizes are compared with the storages, and those with the file.
"""

from __future__ import annotations

import pickle
import struct
import zipfile
import zlib
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections import OrderedDict
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import IO, Any, ClassVar, NamedTuple

PIECE = 1 << 20

_ARCHIVE = b"PK\x03\x04"
"""The first bytes of an archive."""

LEGACY_PICKLES = 5
"""Pickles at the beginning of a file of torch before 1.6: magic number, version, system, content, storage keys."""

ITEM_SIZES = {
    "DoubleStorage": 8,
    "FloatStorage": 4,
    "HalfStorage": 2,
    "BFloat16Storage": 2,
    "LongStorage": 8,
    "IntStorage": 4,
    "ShortStorage": 2,
    "CharStorage": 1,
    "ByteStorage": 1,
    "BoolStorage": 1,
    "UntypedStorage": 1,
}
"""Bytes per number of the storages that are read."""

_REBUILDERS = ("_rebuild_tensor", "_rebuild_tensor_v2")
_REFUSED = ("bytearray", "_rebuild_meta_tensor_no_storage", "_rebuild_wrapper_subclass", "_rebuild_sparse_tensor")
"""Names that take memory for sizes without data, and that no state dict of convolutions needs."""


class SurveyError(ValueError):
    """A file whose pickles are damaged, or claim more than the file has."""


class Placeholder:
    """Stands for an object of a class that is not read: it takes any arguments, and ignores them."""

    def __init__(self, *arguments: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, tuple) and state and isinstance(state[0], _Storage):  # tensors of early versions
            check_tensor(*state)


class _Storage(NamedTuple):
    """The numbers of a storage, and how many bytes each takes."""

    numbers: int
    item_size: int


def survey(path: Path) -> set[str]:
    """Check the sizes in a file of `torch.save`; return the names of all classes and functions in it.

    Raises: `SurveyError` for a damaged file, and for sizes beyond those of the file.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            if file.read(len(_ARCHIVE)) == _ARCHIVE:  # as torch tells the formats apart
                return _survey_archive(file, size)
            file.seek(0)
            storages, names = _survey_pickles(file, LEGACY_PICKLES, size)
            if (claimed := sum(map(_bytes, storages.values()))) > size:
                raise SurveyError(f"its tensors would take {claimed} bytes, but the file has {size}")
            return names
    except SurveyError:
        raise
    except Exception as error:  # damaged pickles raise whatever the operation that they reach raises
        raise SurveyError(str(error) or type(error).__name__) from error


def _survey_archive(file: IO[bytes], size: int) -> set[str]:
    """Survey a file of torch since 1.6: an archive of one pickle, and a part for each storage."""
    with zipfile.ZipFile(file) as archive:
        parts = {member.filename: member for member in archive.infolist()}
        if len({name.lower() for name in parts}) != len(archive.infolist()):  # torch ignores the case
            raise SurveyError("several parts of the archive have the same name")
        if any(part.compress_type != zipfile.ZIP_STORED or part.file_size > size for part in parts.values()):
            raise SurveyError("a part of the archive is compressed, or larger than the file")
        if sum(part.file_size for part in parts.values()) > size:
            raise SurveyError("the parts of the archive are larger than the file")
        pickles = [name for name in parts if name.rpartition("/")[2] == "data.pkl"]
        if len(pickles) != 1:
            raise SurveyError(f"the archive contains {len(pickles)} pickles, expected one")
    content = b"".join(_read_part(file, parts[pickles[0]]))
    storages, names = _survey_pickles(BytesIO(content), 1, len(content))
    folder = pickles[0].removesuffix("data.pkl") + "data/"
    for key, storage in storages.items():
        part = parts.get(f"{folder}{key}")
        if part is None or part.file_size != _bytes(storage):
            raise SurveyError(f"the storage {key} is missing, or has another size than the pickle says")
        for _ in _read_part(file, part):
            pass  # its checksum is compared at its end
    return names


def _read_part(file: IO[bytes], part: zipfile.ZipInfo) -> Iterator[bytes]:
    """Read a part of the archive in pieces; torch itself compares no checksums, and can be told to write none (0)."""
    file.seek(part.header_offset + 26)
    name_length, extra_length = struct.unpack("<HH", file.read(4))
    file.seek(name_length + extra_length, 1)
    checksum, left = 0, part.file_size
    while left:
        piece = file.read(min(left, PIECE))
        if not piece:
            raise SurveyError(f"{part.filename} is incomplete")
        checksum, left = zlib.crc32(piece, checksum), left - len(piece)
        yield piece
    if part.CRC not in (0, checksum):
        raise SurveyError(f"the checksum of {part.filename} differs")


def _survey_pickles(file: IO[bytes], count: int, size: int) -> tuple[dict[str, _Storage], set[str]]:
    storages: dict[str, _Storage] = {}
    names: set[str] = set()
    for _ in range(count):
        _Survey(_BoundedFile(file, size), storages, names).load()
    return storages, names


def _bytes(storage: _Storage) -> int:
    return storage.numbers * storage.item_size


class _BoundedFile:
    """A file from which no more can be asked than it has: Python's files take the memory before they read."""

    def __init__(self, file: IO[bytes], size: int) -> None:
        self._file, self._size = file, size
        self.readline = file.readline

    def read(self, count: int) -> bytes:
        if count > self._size:
            raise SurveyError(f"a text of {count} bytes in a file of {self._size}")
        return self._file.read(count)


class _Survey(pickle._Unpickler):  # the one in Python: that in C takes memory for any index of its memo
    """Read a pickle with placeholders; collect its storages, and the names of its classes and functions."""

    dispatch: ClassVar[dict[int, Any]] = {
        key: method
        for key, method in pickle._Unpickler.dispatch.items()
        if key not in {code[0] for code in (pickle.BYTEARRAY8, pickle.NEXT_BUFFER, pickle.READONLY_BUFFER)}
    }

    def __init__(self, file: _BoundedFile, storages: dict[str, _Storage], names: set[str]) -> None:
        super().__init__(file, encoding="latin-1")
        self._storages, self._names = storages, names

    def find_class(self, module: str, name: str) -> Any:
        module, name = NAME_MAPPING.get((module, name), (IMPORT_MAPPING.get(module, module), name))
        self._names.add(f"{module}.{name}")
        if name in _REFUSED:
            raise SurveyError(f"it contains {module}.{name}, expected tensors")
        if name in _REBUILDERS:
            return check_tensor
        if name in ("_rebuild_parameter", "_rebuild_parameter_with_state"):
            return Placeholder
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        return type(name, (Placeholder,), {})

    def persistent_load(self, identifier: Any) -> _Storage:
        _, kind, key, _, count, *view = identifier
        name = getattr(kind, "__name__", "")
        if name not in ITEM_SIZES or not isinstance(count, int) or count < 0:
            raise SurveyError(f"a storage of {count} numbers of the type {name or kind}")
        storage = self._storages.setdefault(str(key), _Storage(count, ITEM_SIZES[name]))
        if storage != (count, ITEM_SIZES[name]):
            raise SurveyError("two sizes of the same storage")
        if view and view[0] is not None:
            _, offset, count = view[0]
            check_tensor(storage, offset, (count,), (1,))
            return storage._replace(numbers=count)
        return storage


def check_tensor(storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> Placeholder:
    """Check that a tensor lies within its storage, which torch would otherwise enlarge."""
    sizes, strides = tuple(size), tuple(stride)
    if not isinstance(storage, _Storage) or len(sizes) != len(strides) or min((offset, *sizes, *strides)) < 0:
        raise SurveyError(f"a tensor of the shape {sizes[:8]} with the strides {strides[:8]}")
    if 0 not in sizes:
        last = offset + sum((n - 1) * step for n, step in zip(sizes, strides, strict=True))
        if last >= storage.numbers:
            raise SurveyError(f"a tensor of the shape {sizes[:8]} in a storage of {storage.numbers} numbers")
    return Placeholder()
