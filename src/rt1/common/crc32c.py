"""The checksum that TensorFlow's files carry: CRC-32C, rotated and shifted."""

from __future__ import annotations

from fastcrc.crc32 import iscsi  # CRC-32C under its other name


def masked_crc32c(data: bytes | memoryview) -> int:
    """Return the masked CRC-32C of bytes, 0..2**32-1. The mask keeps a checksum of checksums sound.

    >>> hex(masked_crc32c(b"123456789"))
    '0xc78ab0e5'
    """
    crc = iscsi(data)
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF
