"""The checksum of TensorFlow's files, against RFC 3720's examples and whatever buffer holds the bytes."""

from __future__ import annotations

import pytest

from rt1.common.crc32c import masked_crc32c


def _mask(crc: int) -> int:
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


@pytest.mark.parametrize(
    ("data", "crc"),
    [
        (b"", 0x00000000),
        (b"123456789", 0xE3069283),
        (bytes(32), 0x8A9136AA),
        (b"\xff" * 32, 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
        (bytes(reversed(range(32))), 0x113FDB5C),
    ],
)
def test_the_published_examples_come_out(data: bytes, crc: int) -> None:
    assert masked_crc32c(data) == _mask(crc)


def test_a_view_of_a_part_counts_like_the_bytes_themselves() -> None:
    data = bytes(range(256)) * 5000
    for start, stop in ((0, 7), (1, 1025), (3, len(data)), (900_001, 900_001)):
        assert masked_crc32c(memoryview(data)[start:stop]) == masked_crc32c(data[start:stop])
