"""Read images of every kind as arrays of 8-bit RGB; resize and save them."""

from __future__ import annotations

import io
import os
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeAlias, TypeGuard

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from atrous.errors import AtrousError, did_you_mean
from atrous.files import writing
from atrous.imaging.bounded_file import BoundedFile
from atrous.imaging.pixel_limit import limited, pillow_without_limit
from atrous.imaging.tiff import REMEDY, describe_tiff
from atrous.imaging.webp import HEADER, webp_size
from atrous.lazy import imported
from atrous.marks import Mark

if TYPE_CHECKING:
    from torch import Tensor

Pixels: TypeAlias = NDArray[np.uint8]
"""An RGB image: (H, W, 3) uint8."""
ImageLike: TypeAlias = "str | os.PathLike[str] | bytes | BinaryIO | Image.Image | NDArray[np.uint8] | Tensor"

IMAGE_SUFFIXES = (
    ".apng", ".avif", ".avifs", ".blp", ".bmp", ".bw", ".cur", ".dcx", ".dds", ".dib", ".fit", ".fits", ".flc", ".fli",
    ".ftc", ".ftu", ".gbr", ".gif", ".icb", ".icns", ".ico", ".iim", ".im", ".j2c", ".j2k", ".jfif", ".jp2", ".jpc",
    ".jpe", ".jpeg", ".jpf", ".jpg", ".jpx", ".msp", ".pbm", ".pcd", ".pcx", ".pfm", ".pgm", ".png", ".pnm", ".ppm",
    ".psd", ".pxr", ".qoi", ".ras", ".rgb", ".rgba", ".sgi", ".tga", ".tif", ".tiff", ".vda", ".vst", ".webp", ".xbm",
    ".xpm",
)  # fmt: skip
"""The suffixes of the files that count as images in a folder: those of all formats that are read."""

DOCUMENTS = ("EPS", "WMF", "BUFR", "GRIB", "HDF5", "MPEG")
"""Formats that Pillow recognizes, but that are programs (for Ghostscript), data or videos; they are not read."""

UPLOAD_FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF", "PPM")
"""The formats that are decoded from untrusted bytes: those of cameras and browsers, and no rare decoders."""

STRIP_ROWS = 512
"""The number of rows copied at a time from a large image."""
OPENCV_PIXELS = 2**30
"""OpenCV decodes no images with more pixels."""

DECODING_ERRORS = (
    OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error,
    RuntimeError, LookupError, TypeError, ArithmeticError,
)  # fmt: skip
"""The exceptions that Pillow's decoders raise for damaged files; `RuntimeError` is that of AVIF."""

END_OF_JPEG = b"\xff\xd9"
"""The marker at the end of a complete JPEG file."""


def read_image(source: ImageLike, *, max_pixels: int | None = None) -> Pixels:
    """Read an image as upright, opaque 8-bit RGB.

    The EXIF orientation of a file or PIL image is applied; gray, palettes and CMYK are converted to RGB, 16 bits are
    scaled to 8, transparent pixels are blended with white. Arrays and tensors are converted in shape and type alone.
    Files and PIL images of more than `max_pixels` are not decoded, by default those above 179 million or the limit of
    `set_max_pixels`.

    Shape: a file, by its path, its content as bytes, or an object with `read()`; a PIL image, an array (H, W, 3) or
    (H, W) of uint8, or a tensor (3, H, W) of uint8 or of floats in 0..1 -> (H, W, 3) uint8.
    Raises: `AtrousError` for a missing, unreadable, truncated, empty or too large image, or an array of another kind.
    """
    if isinstance(source, Image.Image):
        with limited(*source.size, "the image", max_pixels):
            return _from_pil(source, "the image")
    if isinstance(source, np.ndarray):
        return _from_array(source)
    if _is_tensor(source):
        return _from_tensor(source)
    if isinstance(source, (str, os.PathLike)):
        return _from_file(Path(source), max_pixels)
    if isinstance(source, (bytes, bytearray, memoryview)):
        return _from_bytes(bytes(source), "the image", max_pixels)
    if hasattr(source, "read"):
        return _from_file_object(source, max_pixels)
    raise AtrousError(
        f"Cannot read an image from {type(source).__name__}: give a path, bytes, an open file, a PIL image, a NumPy "
        "array or a tensor."
    )


def decode_image(content: bytes, *, max_pixels: int) -> Pixels:
    """Decode untrusted bytes, of one of `UPLOAD_FORMATS`, as `read_image` does; the size is checked before decoding.

    Shape: -> (H, W, 3) uint8.
    Raises: `ImageTooLargeError` for more than `max_pixels`; `AtrousError` for bytes that are no image, or damaged.
    """
    return _from_bytes(content, "the image", max_pixels, UPLOAD_FORMATS)


def _is_tensor(value: object) -> TypeGuard[Tensor]:
    """Tell whether a value is a torch tensor, without importing torch: where there is a tensor, torch is imported."""
    torch = imported("torch")
    return torch is not None and isinstance(value, torch.Tensor)


@contextmanager
def open_image(path: Path, *, max_pixels: int | None = None) -> Iterator[Image.Image]:
    """Open a file as a PIL image without decoding it; errors of decoding it within the block become an `AtrousError`.

    `max_pixels` as in `read_image`.

    Raises: `AtrousError` for a file that is missing, empty, truncated, damaged, too large or not an image.
    """
    if not path.exists():
        near = did_you_mean(path.name, [p.name for p in path.parent.glob("*")] if path.parent.is_dir() else [])
        raise AtrousError(f"{path}: no such file.{near or ' Check the path.'}")
    if path.is_dir():
        raise AtrousError(f"{path} is a folder; expected an image file: name one of the files in it.")
    with _open(path, str(path), max_pixels) as image:
        yield image


@contextmanager
def _open(
    source: Path | BinaryIO, name: str, limit: int | None, formats: tuple[str, ...] | None = None
) -> Iterator[Image.Image]:
    try:
        with _opened(source, name, limit, formats) as image:
            if image.format in DOCUMENTS:
                raise AtrousError(f"{name}: {image.format} is not a format of images. Save it as PNG.")
            with limited(image.width, image.height, name, limit):
                yield image
    except UnidentifiedImageError as error:
        raise _unknown_format_error(source, name) from error
    except Image.DecompressionBombError as error:  # of an image within the file, such as those of icons
        raise AtrousError(f"{name}: an image in this file is too large ({error}). Save it as PNG.") from error
    except AtrousError:
        raise
    except PermissionError as error:
        raise AtrousError(f"{name}: no permission to read this file. Change its permissions.") from error
    except DECODING_ERRORS as error:
        raise _damaged_image_error(name, error) from error


@contextmanager
def _opened(
    source: Path | BinaryIO, name: str, limit: int | None, formats: tuple[str, ...] | None
) -> Iterator[Image.Image]:
    with BoundedFile(source) if isinstance(source, Path) else nullcontext(source) as file:
        size = webp_size(file.read(HEADER))
        file.seek(0)
        with nullcontext() if size is None else limited(*size, name, limit):
            pass  # the size is checked before Pillow opens the file
        with pillow_without_limit(), warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of damaged metadata, in the words of Pillow
            image = Image.open(file, formats=formats)
        with image:
            yield image


def _unknown_format_error(source: Path | BinaryIO, name: str) -> AtrousError:
    with source.open("rb") if isinstance(source, Path) else nullcontext(source) as file:
        kind, size = describe_tiff(file), file.seek(0, os.SEEK_END)
    if kind:
        return AtrousError(f"{name}: {kind}, which is not read. {REMEDY}")
    despite = ", despite its name" if isinstance(source, Path) else ""
    problem = "not an image in any known format" + despite if size else "the file is empty"
    return AtrousError(f"{name}: {problem}. Save or download the image again.")


def _from_file(path: Path, limit: int | None) -> Pixels:
    with open_image(path, max_pixels=limit) as image:
        pixels = _decode_plain_jpeg(image, path)
        return _from_pil(image, str(path)) if pixels is None else pixels


def _from_bytes(content: bytes, name: str, limit: int | None, formats: tuple[str, ...] | None = None) -> Pixels:
    with _open(io.BytesIO(content), name, limit, formats) as image:
        pixels = _decode_plain_jpeg(image, content)
        return _from_pil(image, name) if pixels is None else pixels


def _from_file_object(file: Any, limit: int | None) -> Pixels:
    name = str(getattr(file, "name", "the image"))
    try:
        content = file.read()
    except (OSError, ValueError) as error:  # closed, or text that is not UTF-8
        raise AtrousError(f"{name}: cannot be read ({error}). Open the file with open(path, 'rb').") from error
    if not isinstance(content, bytes):
        raise AtrousError(f"{name}: read() returns {type(content).__name__}; open the file with open(path, 'rb').")
    return _from_bytes(content, name, limit)


def _decode_plain_jpeg(image: Image.Image, source: Path | bytes) -> Pixels | None:
    """Decode an upright, complete RGB JPEG by OpenCV: the same pixels in half the time. None for all other images."""
    if image.format != "JPEG" or image.mode != "RGB" or image.width * image.height > OPENCV_PIXELS:
        return None
    if image.getexif().get(ExifTags.Base.Orientation, 1) != 1:
        return None
    data = np.fromfile(source, np.uint8) if isinstance(source, Path) else np.frombuffer(source, np.uint8)
    if data[-2:].tobytes() != END_OF_JPEG:  # OpenCV would fill the missing end with gray, without an error
        return None
    decoded = cv2.imdecode(data, cv2.IMREAD_COLOR)
    return None if decoded is None else np.asarray(cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB, decoded), np.uint8)


def _damaged_image_error(name: str, error: Exception) -> AtrousError:
    return AtrousError(f"{name}: the image is truncated or damaged ({error}). Save or download it again.")


def _from_pil(image: Image.Image, name: str) -> Pixels:
    try:
        if (
            image.mode == "RGB"
            and not image.has_transparency_data
            and image.getexif().get(ExifTags.Base.Orientation, 1) == 1
        ):
            return _copy_in_strips(image)
        image = ImageOps.exif_transpose(image)
        if image.mode.startswith("I") or image.mode == "F":
            return _from_high_bit_depth(np.asarray(image), name)
        if image.has_transparency_data:
            image = image.convert("RGBA")
            white = Image.new("RGBA", image.size, "white")
            image = Image.alpha_composite(white, image)
        return np.asarray(image.convert("RGB"))
    except DECODING_ERRORS as error:
        if isinstance(error, AtrousError):
            raise
        raise _damaged_image_error(name, error) from error


def _copy_in_strips(image: Image.Image) -> Pixels:
    """Copy an RGB image strip by strip: converting a large one at once needs memory for several copies of it."""
    image.load()
    pixels = np.empty((image.height, image.width, 3), np.uint8)
    for top in range(0, image.height, STRIP_ROWS):
        bottom = min(top + STRIP_ROWS, image.height)
        pixels[top:bottom] = np.asarray(image.crop((0, top, image.width, bottom)))
    return pixels


def _from_high_bit_depth(values: NDArray[np.generic], name: str) -> Pixels:
    """Scale a channel of more than 8 bits from the range of 16 bits; values that all fit into 8 bits are kept."""
    if values.dtype.kind == "f":
        raise AtrousError(f"{name}: an image of floats, whose range is unknown, is not read. {REMEDY}")
    low, high = int(values.min(initial=0)), int(values.max(initial=0))
    if low < 0 or high > 65535:
        raise AtrousError(
            f"{name}: pixels from {low} to {high}; expected 0 to 65535. Save the image with 8 or 16 bits."
        )
    gray = (values if high < 256 else values // 257).astype(np.uint8)
    return np.dstack([gray] * 3)


def _from_array(array: NDArray[Any]) -> Pixels:
    if array.dtype != np.uint8:
        raise AtrousError(
            f"The image array is {array.dtype}; expected uint8. Convert floats in 0..1 by (255 * x).astype('uint8')."
        )
    if array.ndim == 2:
        array = np.repeat(array[..., None], 3, axis=2)
    if array.ndim != 3 or array.shape[2] != 3 or array.size == 0:
        raise AtrousError(f"The image array has shape {array.shape}; expected (height, width, 3) or (height, width).")
    return array


def _from_tensor(tensor: Tensor) -> Pixels:
    if tensor.ndim != 3 or tensor.shape[0] != 3 or tensor.numel() == 0:
        raise AtrousError(f"The image tensor has shape {tuple(tensor.shape)}; expected (3, height, width).")
    if tensor.is_floating_point():
        low, high = float(tensor.min()), float(tensor.max())
        if not (low >= 0 and high <= 1):
            raise AtrousError(
                f"The image tensor holds floats from {low:.3g} to {high:.3g}; expected 0 to 1, not normalized yet."
            )
        tensor = (tensor * 255).round()
    elif tensor.numpy(force=True).dtype != np.uint8:
        raise AtrousError(f"The image tensor is {tensor.dtype}; expected uint8, or floats from 0 to 1.")
    return np.ascontiguousarray(tensor.permute(1, 2, 0).numpy(force=True).astype(np.uint8))


def resize_image(image: Pixels, height: int, width: int) -> Pixels:
    """Resize an image: bilinearly to enlarge it, by area means to shrink it, which keeps fine texture from aliasing.

    Shape: (H, W, 3) uint8 -> (`height`, `width`, 3) uint8.
    """
    if image.shape[:2] == (height, width):
        return image
    shrinks = height * width < image.shape[0] * image.shape[1]
    resized = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    return np.asarray(resized, np.uint8)


def save_image(pixels: Pixels, path: Path, mark: Mark | None = None) -> None:
    """Save an RGB image in the format that the suffix of `path` names; a PNG with the mark of the command, if any.

    Raises: `AtrousError` if the file cannot be written.
    """
    if path.suffix.lower() == ".png":
        encoded = encode_png(pixels)
        encoded = encoded if mark is None else mark.in_png(encoded)
    else:
        content = io.BytesIO()  # writing a JPEG to a file, Pillow does not notice a full disk
        Image.fromarray(pixels).save(content, Image.registered_extensions()[path.suffix.lower()])
        encoded = content.getvalue()
    with writing(path) as temporary:
        temporary.write_bytes(encoded)


def encode_png(pixels: Pixels) -> bytes:
    """Encode a photograph as PNG in a fifteenth of the time of the best compression; the file is 18 % larger."""
    options = [cv2.IMWRITE_PNG_COMPRESSION, 1, cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_HUFFMAN_ONLY]
    if hasattr(cv2, "IMWRITE_PNG_FILTER"):  # older versions of OpenCV try several filters for each row
        options += [cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_SUB]
    _, encoded = cv2.imencode(".png", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), options)
    return encoded.tobytes()
