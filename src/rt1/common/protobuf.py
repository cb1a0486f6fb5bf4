"""Protocol buffer messages as bytes: the few parts of the format that TFRecord files and TensorFlow checkpoints use."""

from __future__ import annotations

import mmap
from collections.abc import Iterator

from rt1.errors import DataError

Buffer = bytes | mmap.mmap

_FIXED_BYTES = {1: 8, 5: 4}  # wire types of fixed size
_LAST_SHIFT = 63  # of the tenth byte of a number


def fields(data: Buffer, start: int, stop: int) -> Iterator[tuple[int, int, int]]:
    """Yield tag, first byte and byte after the last of each field of the message in ``data[start:stop]``.

    Raises:
        DataError: the bytes are not a message.
    """
    while start < stop:
        tag, first = read_varint(data, start)
        if tag & 7 == 2:
            length, first = read_varint(data, first)
            end = first + length
        elif tag & 7 == 0:
            end = read_varint(data, first)[1]
        elif tag & 7 in _FIXED_BYTES:
            end = first + _FIXED_BYTES[tag & 7]
        else:
            raise DataError(f"not a message: tag {tag} at byte {start}. The file holds something else")
        if end > stop:
            raise DataError(f"not a message: the field at byte {start} runs over its end. Write it again")
        yield tag, first, end
        start = end


def read_varint(data: Buffer, position: int) -> tuple[int, int]:
    """Return the unsigned integer of variable length at ``position``, and the position after it.

    Raises:
        DataError: the data end within it, or it has more than 64 bits.

    >>> read_varint(bytes([0xAC, 0x02]), 0)
    (300, 2)
    """
    try:
        byte = data[position]
        value, shift = byte & 0x7F, 0
        while byte >= 0x80 and shift < _LAST_SHIFT:
            position += 1
            shift += 7
            byte = data[position]
            value |= (byte & 0x7F) << shift
    except IndexError:
        raise DataError(f"not a message: the file ends within a number, at byte {position}") from None
    if byte >= 0x80 or value >= 1 << 64:
        raise DataError(f"not a message: a number of more than 64 bits at byte {position}. Write it again")
    return value, position + 1


def encode_varint(value: int) -> bytes:
    """Return an unsigned integer in variable length."""
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def delimited(field: int, content: bytes) -> bytes:
    """Return a field that holds bytes, a text or a message."""
    return bytes([field << 3 | 2]) + encode_varint(len(content)) + content
