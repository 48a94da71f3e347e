"""CRC-32C against the published checksums, and against its definition bit by bit."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atrous.weights.importers.crc32c import masked_crc32c


def masked(crc: int) -> int:
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) % 2**32


def by_definition(data: bytes) -> int:
    crc = 2**32 - 1
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 2**32 - 1


@pytest.mark.parametrize(
    ("data", "crc"),
    [  # RFC 3720 appendix B.4, and the check value of the CRC catalogs
        (bytes(32), 0x8A9136AA),
        (b"\xff" * 32, 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
        (bytes(range(31, -1, -1)), 0x113FDB5C),
        (b"123456789", 0xE3069283),
        (b"", 0),
    ],
)
def test_published_checksums(data: bytes, crc: int) -> None:
    assert masked_crc32c(data) == masked(crc)


@given(st.binary(max_size=70))
def test_every_length_agrees_with_the_definition(data: bytes) -> None:
    assert masked_crc32c(memoryview(data)) == masked_crc32c(bytearray(data)) == masked(by_definition(data))
