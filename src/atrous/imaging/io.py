"""Pictures of every kind as arrays of 8-bit RGB."""

from __future__ import annotations

import os
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from atrous.errors import AtrousError, did_you_mean
from atrous.files import writing

Pixels: TypeAlias = NDArray[np.uint8]
ImageLike: TypeAlias = "str | os.PathLike[str] | Image.Image | NDArray[np.uint8] | Tensor"

IMAGE_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")
"""What is taken for an image in a folder."""

MAX_PIXELS = 2 * (Image.MAX_IMAGE_PIXELS or 0)
"""Where Pillow refuses an image as a decompression bomb, before decoding it: about 179 million pixels."""

STRIP = 512
"""Rows copied at a time."""

DECODING_ERRORS = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error)
"""What Pillow's decoders raise for damaged files."""

END_OF_JPEG = b"\xff\xd9"


def read_image(source: ImageLike) -> Pixels:
    """An image as it is looked at: upright, opaque, 8-bit RGB.

    A file or PIL image is turned as its EXIF orientation says; gray becomes RGB, palettes and CMYK are converted,
    16 bits are scaled to 8, transparency is laid over white. Arrays and tensors are taken as they are.

    Shape: a file, a PIL image, an array (H, W, 3) or (H, W) of uint8, or a tensor (3, H, W) of uint8 or of floats in
    0..1 -> (H, W, 3) uint8.
    Raises: `AtrousError` for a missing, unreadable, truncated, empty or too large image, or an array of another kind.
    """
    if isinstance(source, Image.Image):
        return _from_pil(source, "the image")
    if isinstance(source, np.ndarray):
        return _from_array(source)
    if isinstance(source, Tensor):
        return _from_tensor(source)
    if isinstance(source, (str, os.PathLike)):
        return _from_file(Path(source))
    raise AtrousError(f"An image is a path, a PIL image, an array or a tensor, not {type(source).__name__}.")


@contextmanager
def open_image(path: Path) -> Iterator[Image.Image]:
    """A file as a PIL image, not decoded yet; what goes wrong in the block, decoding it, becomes an `AtrousError`.

    Raises: `AtrousError` for a missing, empty, truncated, damaged or too large file, or one that is no image.
    """
    if not path.exists():
        near = did_you_mean(path.name, [p.name for p in path.parent.glob("*")] if path.parent.is_dir() else [])
        raise AtrousError(f"{path}: there is no such file.{near}")
    if path.is_dir():
        raise AtrousError(f"{path} is a folder; an image file is expected.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # below our limit is a large photograph
            image = Image.open(path)
        with image:
            _check_size(image, str(path))
            yield image
    except UnidentifiedImageError as error:
        empty = path.stat().st_size == 0
        what = "the file is empty" if empty else "not an image in any known format, whatever its name says"
        raise AtrousError(f"{path}: {what}.") from error
    except Image.DecompressionBombError as error:
        raise AtrousError(f"{path}: too large, over {MAX_PIXELS / 1e6:.0f} megapixels; it was not decoded.") from error
    except AtrousError:
        raise
    except PermissionError as error:
        raise AtrousError(f"{path}: no permission to read it.") from error
    except DECODING_ERRORS as error:
        raise _damaged(str(path), error) from error


def _from_file(path: Path) -> Pixels:
    with open_image(path) as image:
        fast = _plain_jpeg(image, path)
        return _from_pil(image, str(path)) if fast is None else fast


def _plain_jpeg(image: Image.Image, path: Path) -> Pixels | None:
    """An upright, whole RGB JPEG decoded by OpenCV: the same pixels in half the time; None for all others."""
    if image.format != "JPEG" or image.mode != "RGB" or image.getexif().get(ExifTags.Base.Orientation, 1) != 1:
        return None
    data = np.fromfile(path, np.uint8)
    if data[-2:].tobytes() != END_OF_JPEG:  # where the end is missing OpenCV would fill in gray without a word
        return None
    decoded = cv2.imdecode(data, cv2.IMREAD_COLOR)
    return None if decoded is None else np.asarray(cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB, decoded), np.uint8)


def _damaged(name: str, error: Exception) -> AtrousError:
    return AtrousError(f"{name}: the image is truncated or damaged ({error}). Save or fetch it anew.")


def _check_size(image: Image.Image, name: str) -> None:
    if image.width * image.height > MAX_PIXELS:
        raise AtrousError(f"{name}: {image.width} x {image.height} is over {MAX_PIXELS / 1e6:.0f} megapixels.")


def _from_pil(image: Image.Image, name: str) -> Pixels:
    _check_size(image, name)
    try:
        if (
            image.mode == "RGB"
            and not image.has_transparency_data
            and image.getexif().get(ExifTags.Base.Orientation, 1) == 1
        ):
            return _in_strips(image)
        image = ImageOps.exif_transpose(image)
        if image.mode.startswith("I") or image.mode == "F":
            return _from_deep(np.asarray(image), name)
        if image.has_transparency_data:
            image = image.convert("RGBA")
            white = Image.new("RGBA", image.size, "white")
            image = Image.alpha_composite(white, image)
        return np.asarray(image.convert("RGB"))
    except DECODING_ERRORS as error:
        if isinstance(error, AtrousError):
            raise
        raise _damaged(name, error) from error


def _in_strips(image: Image.Image) -> Pixels:
    """The pixels of an RGB image as they are: large ones have no room for the copies that conversions make."""
    image.load()
    pixels = np.empty((image.height, image.width, 3), np.uint8)
    for top in range(0, image.height, STRIP):
        bottom = min(top + STRIP, image.height)
        pixels[top:bottom] = np.asarray(image.crop((0, top, image.width, bottom)))
    return pixels


def _from_deep(values: NDArray[np.generic], name: str) -> Pixels:
    """One channel of more than 8 bits, scaled by the range of its type: 16 bits, unless it holds less."""
    if values.dtype.kind == "f":
        raise AtrousError(f"{name}: an image of floats, whose range is unknown; save it as 8 or 16 bits.")
    low, high = int(values.min(initial=0)), int(values.max(initial=0))
    if low < 0 or high > 65535:
        raise AtrousError(f"{name}: pixels from {low} to {high}; 16 bits, 0 to 65535, are expected.")
    gray = (values if high < 256 else values // 257).astype(np.uint8)
    return np.dstack([gray] * 3)


def _from_array(array: NDArray[Any]) -> Pixels:
    if array.dtype != np.uint8:
        raise AtrousError(
            f"An image array holds uint8, not {array.dtype}: for floats in 0..1, (255 * x).astype('uint8')."
        )
    if array.ndim == 2:
        array = np.repeat(array[..., None], 3, axis=2)
    if array.ndim != 3 or array.shape[2] != 3 or array.size == 0:
        raise AtrousError(f"An image array is (height, width, 3) or (height, width), not {array.shape}.")
    return array


def _from_tensor(tensor: Tensor) -> Pixels:
    if tensor.ndim != 3 or tensor.shape[0] != 3 or tensor.numel() == 0:
        raise AtrousError(f"An image tensor is (3, height, width), not {tuple(tensor.shape)}.")
    if tensor.is_floating_point():
        low, high = float(tensor.min()), float(tensor.max())
        if not (low >= 0 and high <= 1):
            raise AtrousError(f"A float image holds 0..1, not {low:.3g} to {high:.3g}; it must not be normalized yet.")
        tensor = (tensor * 255).round()
    elif tensor.numpy(force=True).dtype != np.uint8:
        raise AtrousError(f"An image tensor holds uint8, or floats in 0..1, not {tensor.dtype}.")
    return np.ascontiguousarray(tensor.permute(1, 2, 0).numpy(force=True).astype(np.uint8))


def resize_image(image: Pixels, height: int, width: int) -> Pixels:
    """Bilinear where it grows, the mean over areas where it shrinks, so that fine texture does not turn to noise."""
    if image.shape[:2] == (height, width):
        return image
    shrinks = height * width < image.shape[0] * image.shape[1]
    resized = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    return np.asarray(resized, np.uint8)


def save_image(pixels: Pixels, path: Path) -> None:
    """Write an RGB picture.

    Raises: `AtrousError` for a place that cannot be written.
    """
    with writing(path) as temporary:
        Image.fromarray(pixels).save(temporary)
