"""Limit the size of images that are decoded: a decompression bomb is a small file that unpacks to gigabytes."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

from PIL import Image

from atrous.errors import AtrousError

MAX_PIXELS = 178_956_970
"""The default limit: twice `Image.MAX_IMAGE_PIXELS`, above which Pillow suspects a decompression bomb."""
VARIABLE = "ATROUS_MAX_PIXELS"
"""The environment variable that changes the limit; worker processes inherit it."""

_OPENING = threading.RLock()


class ImageTooLargeError(AtrousError):
    """An image of more pixels than are decoded."""


def max_pixels() -> int:
    """The number of pixels of the largest image that is decoded.

    Raises: `AtrousError` if the environment variable is no positive number.
    """
    text = os.environ.get(VARIABLE, "").strip()
    if not text:
        return MAX_PIXELS
    if not text.isdecimal() or int(text) == 0:
        raise AtrousError(f"{VARIABLE}={text}: expected a number of pixels, such as 1000000000.")
    return int(text)


def set_max_pixels(count: int | None) -> None:
    """Decode images of up to `count` pixels in this process and its workers; None for the default, 179 million.

    Raises: `AtrousError` for a number that is not positive.
    """
    if count is None:
        os.environ.pop(VARIABLE, None)
        return
    if count < 1:
        raise AtrousError(f"{count} pixels: expected a positive number, such as 1000000000.")
    os.environ[VARIABLE] = str(count)


@contextmanager
def limited(width: int, height: int, name: str, limit: int | None = None) -> Iterator[None]:
    """Check the size of an image, and let Pillow decode it in the block, even above the limit of its own.

    `limit` replaces that of the process.

    Raises: `ImageTooLargeError` for an image above the limit.
    """
    limit = max_pixels() if limit is None else limit
    if width * height > limit:
        raise ImageTooLargeError(
            f"{name}: the image of {width} x {height} is too large, over {limit / 1e6:.4g} megapixels, and is not "
            f"decoded. If you trust it, raise the limit: --max-pixels {width * height} (in Python "
            f"atrous.inference.set_max_pixels({width * height})), with --tile if memory is short."
        )
    with pillow_without_limit() if width * height > MAX_PIXELS // 2 else nullcontext():
        yield


@contextmanager
def pillow_without_limit() -> Iterator[None]:
    """Switch off Pillow's own check, which is the same for all threads, in a block; `limited` replaces it."""
    with _OPENING:
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = limit
