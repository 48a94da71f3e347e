"""Read matrices from MATLAB files of versions 5 to 7, which may be damaged: every size is checked before it is used.

SciPy's reader crashes on some damaged files, and allocates gigabytes for others.

Source: MathWorks, MAT-File Format, "Level 5 MAT-File Format".
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

_COMPRESSED, _MATRIX = 15, 14
_TYPES = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
"""The types of stored numbers: MATLAB stores those of a matrix in the smallest that holds them."""
_STRUCT = 2
_NUMBERS = range(6, 16)
"""The classes of matrices of numbers."""
_COMPLEX = 1 << 11
_NOTHING = (0, memoryview(b""))
"""The element that is missing at the end of a content."""
MAX_BYTES = 1 << 28
"""The largest content that is unpacked."""


class MatlabError(ValueError):
    """A file that is no MATLAB file of these versions, or a damaged one; the message is a phrase."""


class MissingError(MatlabError):
    """A file without the matrix that is asked for."""


class _Matrix(NamedTuple):
    """A variable or a field, of which the content is not read yet."""

    kind: int
    size: tuple[int, ...]
    name: str
    elements: Iterator[tuple[int, memoryview]]


def read_matrix(content: bytes, path: tuple[str, ...]) -> NDArray[np.generic]:
    """Read the matrix of a variable, or of a field within structures, by its path, such as `("GTcls", "Segmentation")`.

    Shape: -> that of the matrix, two or more dimensions, in the type that it is stored in.
    Raises: `MatlabError` for a damaged file, `MissingError` for one without this matrix.
    """
    if len(content) < 128 or content[126:128] not in (b"IM", b"MI"):
        raise MatlabError("no header of MATLAB 5 to 7")
    order = "<" if content[126:128] == b"IM" else ">"
    matrices = _variables(memoryview(content)[128:], order)
    matrix = None
    for name in path:
        matrix = next((each for each in matrices if each.name == name), None)
        if matrix is None:
            raise MissingError(f"no {name}")
        matrices = _fields(matrix, order) if matrix.kind == _STRUCT else iter(())
    assert matrix is not None
    if matrix.kind not in _NUMBERS:
        raise MissingError(f"{matrix.name} is no matrix of numbers")
    return _numbers(matrix, order)


def _elements(content: memoryview, order: str) -> Iterator[tuple[int, memoryview]]:
    """Split a content into elements: their types and contents."""
    position = 0
    while position + 8 <= len(content):
        kind, size = struct.unpack_from(f"{order}II", content, position)
        if kind >> 16:  # a small element: the size is in the upper half of the type
            kind, size, start, end = kind & 0xFFFF, kind >> 16, position + 4, position + 8
            if size > 4:
                raise MatlabError(f"a small element of {size} bytes")
        else:
            start = position + 8
            end = start + size if kind == _COMPRESSED else start + -(-size // 8) * 8
        if start + size > len(content):
            raise MatlabError(f"an element of {size} bytes, where {len(content) - start} are left")
        yield kind, content[start : start + size]
        position = end


def _variables(content: memoryview, order: str) -> Iterator[_Matrix]:
    for kind, element in _elements(content, order):
        if kind == _COMPRESSED:
            unpacked = memoryview(_unpack(element))
            yield from (_parse_matrix(inner, order) for kind, inner in _elements(unpacked, order) if kind == _MATRIX)
        elif kind == _MATRIX:
            yield _parse_matrix(element, order)


def _unpack(content: memoryview) -> bytes:
    decompressor = zlib.decompressobj()
    try:
        unpacked = decompressor.decompress(content, MAX_BYTES)
    except zlib.error as error:
        raise MatlabError(str(error)) from error
    if not decompressor.eof:
        raise MatlabError("truncated, or too large")
    return unpacked


def _parse_matrix(content: memoryview, order: str) -> _Matrix:
    elements = _elements(content, order)
    (_, flags), (_, size), (_, name) = (next(elements, _NOTHING) for _ in range(3))
    if len(flags) < 8:
        raise MatlabError("an incomplete matrix")
    kind = struct.unpack_from(f"{order}I", flags)[0]
    if kind & _COMPLEX:
        raise MatlabError("complex numbers")
    if not 8 <= len(size) <= 128 or len(size) % 4:
        raise MatlabError(f"dimensions of {len(size)} bytes")
    dimensions = struct.unpack(f"{order}{len(size) // 4}i", size)
    if min(dimensions) < 0:
        raise MatlabError(f"dimensions {dimensions}")
    return _Matrix(kind & 0xFF, dimensions, bytes(name).decode("latin-1"), elements)


def _fields(matrix: _Matrix, order: str) -> Iterator[_Matrix]:
    """Parse the fields of a structure."""
    (_, length_of_names), (_, joined) = (next(matrix.elements, _NOTHING) for _ in range(2))
    if len(length_of_names) != 4 or math.prod(matrix.size) != 1:
        raise MissingError(f"{matrix.name} is no single structure")
    length, names = struct.unpack(f"{order}i", length_of_names)[0], bytes(joined)
    if not 0 < length <= 64 or len(names) % length:
        raise MatlabError(f"names of fields of {length} bytes")
    for start in range(0, len(names), length):
        kind, element = next(matrix.elements, _NOTHING)
        if kind != _MATRIX:
            raise MatlabError("a structure with fewer fields than names")
        name = names[start : start + length].partition(b"\0")[0].decode("latin-1")
        if len(element):
            yield _parse_matrix(element, order)._replace(name=name)


def _numbers(matrix: _Matrix, order: str) -> NDArray[np.generic]:
    kind, element = next(matrix.elements, _NOTHING)
    stored = np.dtype(f"{order}{_TYPES[kind]}") if kind in _TYPES else None
    count = math.prod(matrix.size)
    if stored is None or len(element) != count * stored.itemsize:
        raise MatlabError(f"a matrix of {matrix.size} with {len(element)} bytes")
    return np.frombuffer(element, stored).reshape(matrix.size, order="F").astype(stored.newbyteorder("="))
