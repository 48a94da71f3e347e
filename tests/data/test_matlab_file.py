"""MATLAB files: what SciPy writes is read, and what lies about its size is refused."""

from __future__ import annotations

import contextlib
import io
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from atrous.data.matlab_file import MatlabError, MissingError, read_matrix

savemat = pytest.importorskip("scipy.io").savemat

DTYPES = ("uint8", "int8", "uint16", "int16", "uint32", "int32", "float32", "float64")


def encode(content: dict[str, object], compressed: bool) -> bytes:
    file = io.BytesIO()
    savemat(file, content, do_compression=compressed)
    return file.getvalue()


@given(st.integers(1, 5), st.integers(1, 5), st.sampled_from(DTYPES), st.booleans(), st.integers(0, 99))
def test_matrices_that_scipy_writes(height: int, width: int, dtype: str, compressed: bool, seed: int) -> None:
    matrix = np.random.default_rng(seed).integers(0, 100, (height, width)).astype(dtype)
    others = {"before": np.ones((3, 2)), "text": "a text", "cells": np.array([1, "b"], object)}
    content = encode({**others, "a": {**others, "labels": matrix}, "b": matrix}, compressed)
    for path in (("b",), ("a", "labels")):
        read = read_matrix(content, path)
        assert read.dtype == dtype
        np.testing.assert_array_equal(read, matrix)


def test_what_is_not_there() -> None:
    content = encode({"a": {"b": np.ones((2, 2))}, "c": "text"}, True)
    for path in (("b",), ("a", "c"), ("a", "b", "c"), ("a",), ("c",)):
        with pytest.raises(MissingError):
            read_matrix(content, path)


@pytest.mark.parametrize("compressed", [False, True])
def test_every_flipped_byte_is_a_content_or_an_error(compressed: bool) -> None:
    """SciPy crashed on some, and allocated 4 GiB for others."""
    content = encode({"GTcls": {"Segmentation": np.ones((4, 5), np.uint8)}}, compressed)
    for place in range(len(content)):
        for value in (0, 1, 127, 255):
            damaged = bytearray(content)
            damaged[place] = value
            with contextlib.suppress(MatlabError):
                assert read_matrix(bytes(damaged), ("GTcls", "Segmentation")).size <= len(content)


def test_a_bomb_is_not_unpacked() -> None:
    packed = zlib.compress(bytes(1 << 29), 9)
    header = encode({}, False)[:128]
    with pytest.raises(MatlabError, match="too large"):
        read_matrix(header + (15).to_bytes(4, "little") + len(packed).to_bytes(4, "little") + packed, ("a",))
