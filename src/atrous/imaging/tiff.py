"""Describe TIFF files whose pixels Pillow cannot decode: floats, many channels, integers of more than 8 bits."""

from __future__ import annotations

import struct
import warnings
from typing import BinaryIO

from PIL import TiffImagePlugin

_BITS, _CHANNELS, _PLANAR, _SAMPLE_FORMAT = 258, 277, 284, 339
_KINDS = {1: "integers", 2: "signed integers", 3: "floats", 5: "complex integers", 6: "complex floats"}
REMEDY = (
    "Convert three channels to 8 bits, with the range of values that you choose, for example by gdal_translate "
    "-ot Byte -scale LOW HIGH 0 255 -b 1 -b 2 -b 3 IN.tif OUT.tif."
)


def describe_tiff(file: BinaryIO) -> str:
    """Describe the pixels of a TIFF, such as "a TIFF of 4 channels of 16-bit integers"; empty for other files."""
    file.seek(0)
    header = file.read(8)
    if header[:4] in (b"II+\0", b"MM\0+"):
        header += file.read(8)
    elif header[:4] not in (b"II*\0", b"MM\0*"):
        return ""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of truncated tags
            tags = TiffImagePlugin.ImageFileDirectory_v2(header)
            file.seek(tags.next)
            tags.load(file)
        bits, channels = tags.get(_BITS, (1,)), int(tags.get(_CHANNELS, 1))
        kinds = tags.get(_SAMPLE_FORMAT, (1,))
        planar = tags.get(_PLANAR, 1) == 2 and channels > 1
    except (OSError, SyntaxError, ValueError, KeyError, TypeError, struct.error):
        return ""
    kind = _KINDS.get(kinds[0] if kinds else 1, "values of an unknown kind")
    apart = ", stored one channel after the other" if planar else ""
    return f"a TIFF of {channels} channel{'s' * (channels != 1)} of {bits[0] if bits else 1}-bit {kind}{apart}"
