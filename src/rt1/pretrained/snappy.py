"""Snappy decompression, as TensorFlow's checkpoint index uses it."""

from __future__ import annotations

from rt1.common.protobuf import read_varint


def decompress(data: bytes) -> bytes:
    """Decompress one snappy block (no framing).

    Raises:
        ValueError: the block is damaged.
        IndexError: the block ends too early.
    """
    size, at = read_varint(data, 0)
    out = bytearray()
    while at < len(data) and len(out) <= size:
        tag = data[at]
        if tag & 3 == 0:
            length, at = _literal_length(data, at)
            if at + length > len(data):
                raise ValueError(f"a snappy literal of {length} bytes ends behind the block")
            out += data[at : at + length]
            at += length
        else:
            length, offset, at = _copy(data, at)
            if not 0 < offset <= len(out):
                raise ValueError(f"a snappy copy reaches {offset} bytes back, only {len(out)} are there")
            start = len(out) - offset
            copied = out[start : start + length]
            out += (copied * (length // len(copied) + 1))[:length]  # a copy may overlap what it writes
    if len(out) != size:
        raise ValueError(f"a snappy block gives {len(out)} bytes, its header says {size}")
    return bytes(out)


def _literal_length(data: bytes, at: int) -> tuple[int, int]:
    code = data[at] >> 2
    if code < 60:
        return code + 1, at + 1
    width = code - 59
    return int.from_bytes(data[at + 1 : at + 1 + width], "little") + 1, at + 1 + width


def _copy(data: bytes, at: int) -> tuple[int, int, int]:
    tag = data[at]
    if tag & 3 == 1:
        return 4 + (tag >> 2 & 7), (tag >> 5) << 8 | data[at + 1], at + 2
    width = 2 if tag & 3 == 2 else 4
    return 1 + (tag >> 2), int.from_bytes(data[at + 1 : at + 1 + width], "little"), at + 1 + width
