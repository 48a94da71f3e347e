"""The size of a WebP file is checked before it is opened, which would allocate memory for all its pixels."""

from __future__ import annotations

import io
from unittest import mock

import numpy as np
import pytest
from PIL import Image

from atrous.imaging.io import read_image
from atrous.imaging.pixel_limit import ImageTooLargeError
from atrous.imaging.webp import webp_size

KINDS: dict[str, tuple[int, dict[str, object]]] = {
    "lossy": (3, {"quality": 50}),
    "lossless": (3, {"lossless": True}),
    "lossy with alpha": (4, {"quality": 50}),
    "lossless with alpha": (4, {"lossless": True}),
    "animated": (3, {"save_all": True, "append_images": [Image.new("RGB", (37, 21))]}),
}


def encode(kind: str) -> bytes:
    channels, options = KINDS[kind]
    file = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 255, (21, 37, channels), np.uint8)
    Image.fromarray(pixels).save(file, "WEBP", **options)
    return file.getvalue()


@pytest.mark.parametrize("kind", KINDS)
def test_the_size_of_what_pillow_writes(kind: str) -> None:
    assert webp_size(encode(kind)) == (37, 21)
    assert read_image(encode(kind)).shape == (21, 37, 3)


def test_other_files_have_none() -> None:
    for content in (b"", b"RIFF", b"RIFF\0\0\0\0WAVE" + bytes(40), b"RIFF\0\0\0\0WEBPVP9 " + bytes(40)):
        assert webp_size(content) is None


@pytest.mark.parametrize(
    ("kind", "place", "value"),
    [
        ("lossy", 26, b"\xff\x3f\xff\x3f"),
        ("lossless", 21, b"\xff\xff\xff\x0f"),
        ("animated", 24, b"\xff\xff\xff\xff\xff\xff"),
    ],
)
def test_a_huge_one_is_not_opened(kind: str, place: int, value: bytes) -> None:
    content = bytearray(encode(kind))
    content[place : place + len(value)] = value
    with mock.patch("PIL.Image.open") as opened, pytest.raises(ImageTooLargeError, match="is too large"):
        read_image(bytes(content))
    opened.assert_not_called()
