"""Read the size of a WebP file from its header: its decoder allocates memory for all pixels as soon as it is opened."""

from __future__ import annotations

HEADER = 30
"""The number of bytes at the beginning of a file that tell the size."""
_START = b"\x9d\x01\x2a"
"""The bytes before the size of a lossy image."""


def webp_size(header: bytes) -> tuple[int, int] | None:
    """Get width and height from the beginning of a WebP file; None for other files.

    Source: RFC 9649, section 2.5 to 2.7; RFC 6386, section 9.1.
    """
    if len(header) < HEADER or header[:4] != b"RIFF" or header[8:12] != b"WEBP":
        return None
    kind = header[12:16]
    if kind == b"VP8X":
        return int.from_bytes(header[24:27], "little") + 1, int.from_bytes(header[27:30], "little") + 1
    if kind == b"VP8L":
        bits = int.from_bytes(header[21:25], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if kind == b"VP8 " and header[23:26] == _START:
        return int.from_bytes(header[26:28], "little") & 0x3FFF, int.from_bytes(header[28:30], "little") & 0x3FFF
    return None
