"""CRC-32C (Castagnoli) checksums, as TensorFlow stores them in its checkpoints, compiled by Numba.

Source: RFC 3720 appendix B.4; the mask is LevelDB's (`util/crc32c.h`).
"""

from __future__ import annotations

from functools import cache

import numba
import numpy as np
from numpy.typing import NDArray

_POLYNOMIAL = 0x82F63B78
_MASK = 0xA282EAD8


def masked_crc32c(data: bytes | bytearray | memoryview) -> int:
    """Compute the CRC-32C of data, rotated and shifted as LevelDB and TensorFlow store it next to the data."""
    crc = _checksum(np.frombuffer(data, np.uint8), _tables())
    return ((crc >> 15 | crc << 17) + _MASK) & 0xFFFFFFFF


@cache
def _tables() -> NDArray[np.uint32]:
    """Tabulate the checksums of single bytes followed by 0 to 7 zero bytes, so that 8 bytes are processed at once."""
    tables = np.zeros((8, 256), np.uint32)
    values = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        values = np.where(values & 1, values >> 1 ^ _POLYNOMIAL, values >> 1).astype(np.uint32)
    tables[0] = values
    for index in range(1, 8):
        tables[index] = tables[index - 1] >> 8 ^ values[tables[index - 1] & 255]
    return tables


@numba.njit(cache=True, nogil=True)
def _checksum(data: NDArray[np.uint8], tables: NDArray[np.uint32]) -> int:
    crc = np.uint32(0xFFFFFFFF)
    whole = len(data) // 8 * 8
    for i in range(0, whole, 8):
        crc = (
            tables[7, data[i] ^ (crc & 255)]
            ^ tables[6, data[i + 1] ^ (crc >> 8 & 255)]
            ^ tables[5, data[i + 2] ^ (crc >> 16 & 255)]
            ^ tables[4, data[i + 3] ^ (crc >> 24)]
            ^ tables[3, data[i + 4]]
            ^ tables[2, data[i + 5]]
            ^ tables[1, data[i + 6]]
            ^ tables[0, data[i + 7]]
        )
    for i in range(whole, len(data)):
        crc = np.uint32(crc >> 8) ^ tables[0, data[i] ^ (crc & 255)]
    return int(crc ^ np.uint32(0xFFFFFFFF))
