"""Files of images whose headers lie about the length of what follows."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
from PIL import Image

from atrous.imaging.bounded_file import BoundedFile
from atrous.imaging.io import read_image


def test_content_is_that_of_the_file(tmp_path: Path) -> None:
    content = bytes(range(256)) * 10_000
    (tmp_path / "a").write_bytes(content)
    with BoundedFile(tmp_path / "a") as file:
        assert file.read(10) == content[:10]
        assert file.read(1 << 40) == content[10:]
        assert file.read(1 << 40) == b""
        file.seek(-5, 2)
        assert file.read() == content[-5:]


def test_a_png_with_a_chunk_of_gigabytes(tmp_path: Path) -> None:
    """Pillow asks for all that is left of the chunk, once the pixels are decoded."""
    pixels = np.arange(120, dtype=np.uint8).reshape(10, 12)
    path = tmp_path / "a.png"
    Image.fromarray(pixels).save(path)
    content = bytearray(path.read_bytes())
    content[33] = 255  # the highest byte of the length of the first chunk of pixels
    path.write_bytes(content)
    tracemalloc.start()
    try:
        assert (read_image(path)[..., 0] == pixels).all()
        assert tracemalloc.get_traced_memory()[1] < 10 << 20
    finally:
        tracemalloc.stop()
