"""Undamaged images and masks of every format, as small as they can be."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, features

from tests.hostile.data_files import tiny_weights
from tests.hostile.kinds import Kind

PREDICT = ("predict", "{path}", "-w", "{folder}/own.safetensors", "-o", "{out}", "--engine", "torch")
"""The command that segments an image or a video, with weights beside it."""

Picture = np.ndarray | Callable[[], Image.Image]


def _noise(*shape: int, dtype: Any = np.uint8) -> np.ndarray:
    return np.random.default_rng(0).integers(0, np.iinfo(dtype).max, shape, dtype, endpoint=True)


def _palette(transparent: bool = False) -> Image.Image:
    image = Image.fromarray(_noise(10, 12) % 8).convert("P")
    image.putpalette(_noise(256 * 3).tobytes())
    if transparent:
        image.info["transparency"] = 3
    return image


def _cmyk() -> Image.Image:
    return Image.fromarray(_noise(16, 16, 4), "CMYK")


def _rotated() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif.tobytes()


def _write(name: str, picture: Picture, options: dict[str, Any], folder: Path) -> Path:
    image = Image.fromarray(picture) if isinstance(picture, np.ndarray) else picture()
    image.save(folder / name, **options)
    return folder / name


def _image(name: str, picture: Picture, options: dict[str, Any], folder: Path) -> Path:
    tiny_weights(folder / "own.safetensors")
    return _write(name, picture, options, folder)


def _mask(name: str, picture: Picture, options: dict[str, Any], folder: Path) -> Path:
    """Write a mask in a folder of images and masks."""
    for each in ("images", "masks"):
        (folder / each).mkdir()
    _write("m.png", _COLOR, {}, folder / "images")
    (folder / "classes.yaml").write_text(
        "classes: [{name: road, color: [0, 0, 0], values: [0]}, {name: sky, color: [128, 0, 0], values: [1]}]\n"
    )
    return _write(name, picture, options, folder / "masks")


def right_png_checksums(content: bytes) -> bytes:
    """Correct the checksums of the chunks of a damaged PNG, as far as their lengths are valid."""
    corrected, position = bytearray(content), 8
    while position + 12 <= len(content):
        (length,) = struct.unpack_from(">I", content, position)
        end = position + 8 + length
        if end + 4 > len(content):
            break
        struct.pack_into(">I", corrected, end, zlib.crc32(corrected[position + 4 : end]))
        position = end + 4
    return bytes(corrected)


def _kind(name: str, picture: Picture, **options: Any) -> Kind:
    wrap = right_png_checksums if name.endswith(".png") else bytes
    return Kind(partial(_image, name, picture, options), "image", PREDICT, wrap=wrap, every=30)


def _mask_kind(name: str, picture: Picture, **options: Any) -> Kind:
    wrap = right_png_checksums if name.endswith(".png") else bytes
    return Kind(partial(_mask, name, picture, options), "mask", ("inspect", "{folder}/.."), wrap=wrap, every=10)


_COLOR, _GRAY = _noise(10, 12, 3), _noise(10, 12)
_MASK = (_GRAY % 2).astype(np.uint8)

PICTURES = {
    "png": _kind("a.png", _COLOR),
    "png with wrong checksums": replace(_kind("a.png", _COLOR), wrap=bytes),
    "png of 16 bits": _kind("a.png", _noise(10, 12, dtype=np.uint16)),
    "png with a palette": _kind("a.png", _palette),
    "png with a transparent color": _kind("a.png", partial(_palette, True), transparency=3),
    "png with alpha": _kind("a.png", _noise(10, 12, 4)),
    "jpeg": _kind("a.jpg", _noise(16, 16, 3)),
    "progressive jpeg": _kind("a.jpg", _noise(16, 16, 3), progressive=True),
    "rotated jpeg": _kind("a.jpg", _noise(16, 24, 3), exif=_rotated()),
    "gray jpeg": _kind("a.jpg", _noise(16, 16)),
    "cmyk jpeg": _kind("a.jpg", _cmyk),
    "webp": _kind("a.webp", _COLOR, quality=50),
    "lossless webp with alpha": _kind("a.webp", _noise(10, 12, 4), lossless=True),
    "bmp": _kind("a.bmp", _COLOR),
    "bmp with a palette": _kind("a.bmp", _palette),
    "tiff": _kind("a.tif", _COLOR),
    "tiff lzw": _kind("a.tif", _COLOR, compression="tiff_lzw"),
    "tiff deflate of 16 bits": _kind("a.tif", _noise(10, 12, dtype=np.uint16), compression="tiff_adobe_deflate"),
    "tiff jpeg": _kind("a.tif", _noise(16, 16, 3), compression="jpeg"),
    "gif": _kind("a.gif", _palette),
    "ppm": _kind("a.ppm", _COLOR),
    "index mask": _mask_kind("m.png", _MASK),
    "palette mask": _mask_kind("m.png", lambda: Image.fromarray(_MASK).convert("P")),
    "mask of 16 bits": _mask_kind("m.png", _MASK.astype(np.uint16)),
    "color mask": _mask_kind("m.png", np.stack([_MASK * 128, _MASK * 0, _MASK * 0], -1)),
    "tiff mask": _mask_kind("m.tif", _MASK, compression="tiff_lzw"),
    "bmp mask": _mask_kind("m.bmp", _MASK),
}
"""The kinds of images and masks that are damaged."""
if features.check("avif"):
    PICTURES["avif"] = _kind("a.avif", _noise(16, 16, 3))
if features.check("jpg_2000"):
    PICTURES["jpeg 2000"] = _kind("a.jp2", _noise(16, 16, 3))
