"""TFRecord files and the ``tf.train.Example`` messages in them, read and written without TensorFlow.

A TFRecord file is a row of frames: u64 length, masked CRC-32C of these 8 bytes, payload, masked CRC-32C of
the payload. An Example is the protobuf message ``map<string, list of bytes | floats | int64>``. The reader
only walks the tags, so that a record of a megabyte of images costs little beyond its checksum.
"""

from __future__ import annotations

import functools
import mmap
import struct
from array import array
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rt1.common.crc32c import masked_crc32c
from rt1.common.protobuf import Buffer, delimited, encode_varint, fields, read_varint
from rt1.errors import DataError

FeatureValue = Sequence[bytes] | NDArray[np.float32] | NDArray[np.int64]

BYTES, FLOATS, INTS = 1, 2, 3
Span = tuple[int, int, int]
"""A feature's list in a buffer: kind (``BYTES``, ``FLOATS`` or ``INTS``), first byte, byte after the last."""

FRAME_START, FRAME_BYTES = 12, 16
"""What a frame adds before its payload, and in all."""

_HEADER = struct.Struct("<QI")
_CRC = struct.Struct("<I")
_TAG_AND_SIZE = struct.Struct("<BI")
_FOUR_BYTES, _SIX_BYTES = struct.Struct("<4B"), struct.Struct("<6B")
_CURE = "Record or download this file again, or pass skip_corrupt=True to read what is intact"
_FIRST, _SECOND, _THIRD = 0x0A, 0x12, 0x1A  # tags of the delimited fields 1, 2 and 3
_KIND_OF_TAG = {_FIRST: BYTES, _SECOND: FLOATS, _THIRD: INTS}
_ONE_INT, _ONE_FLOAT = 0x08, 0x0D  # tags of an int and of a float in a list that is not packed
_FLOAT = np.dtype("<f4")


def frame(payload: bytes) -> bytes:
    """Return the frame of a payload in a TFRecord file: length, checksums and payload."""
    length = struct.pack("<Q", len(payload))
    return length + _CRC.pack(masked_crc32c(length)) + payload + _CRC.pack(masked_crc32c(payload))


def map_file(path: Path) -> Buffer:
    """Map a file for reading. An empty one gives ``b""``. A missing one raises :class:`DataError`."""
    try:
        with path.open("rb") as file:
            if path.stat().st_size == 0:
                return b""
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}. Check that the file is there and readable") from error


def scan_records(path: Path, data: Buffer, *, corrupt: list[str] | None = None) -> Iterator[tuple[int, int]]:
    """Yield first byte and byte after the last of each payload of a TFRecord file, checksums verified.

    ``data`` is the content of ``path``, see :func:`map_file`. A truncated record or a wrong checksum raises
    :class:`DataError`, or with ``corrupt`` is skipped and listed there. A damaged length ends the file, since no later
    record can be located.
    """
    view = memoryview(data)
    start, size = 0, len(data)
    while start < size:
        if start + _HEADER.size > size:
            return _note(corrupt, f"{path}: truncated record header at byte {start} of {size}. {_CURE}")
        length, length_crc = _HEADER.unpack_from(data, start)
        if masked_crc32c(view[start : start + 8]) != length_crc:
            return _note(corrupt, f"{path}: checksum of the record length does not fit at byte {start}. {_CURE}")
        first = start + _HEADER.size
        stop = first + length
        if stop + _CRC.size > size:
            sizes = f"{length} bytes long, the file {size}"
            return _note(corrupt, f"{path}: truncated record at byte {start}: {sizes}. {_CURE}")
        if masked_crc32c(view[first:stop]) == _CRC.unpack_from(data, stop)[0]:
            yield first, stop
        else:
            _note(corrupt, f"{path}: checksum of the record at byte {start} does not fit. {_CURE}")
        start = stop + _CRC.size
    return None


def encode_example(features: Mapping[str, FeatureValue]) -> bytes:
    """Return a ``tf.train.Example``: lists by name, in sorted order, so that equal input gives equal bytes.

    >>> encode_example({"a": [b"x"]}).hex(" ")
    '0a 0c 0a 0a 0a 01 61 12 05 0a 03 0a 01 78'
    """
    entries = b"".join(
        delimited(1, delimited(1, name.encode()) + delimited(2, _feature(name, features[name])))
        for name in sorted(features)
    )
    return delimited(1, entries)


def scan_example(data: Buffer, start: int, stop: int, wanted: Collection[bytes] | None = None) -> dict[bytes, Span]:
    """Return the spans of the lists of the Example in ``data[start:stop]``, without reading their values.

    ``wanted`` are the names to return, all if None. A feature without a list is left out. Bytes that are not an Example
    raise :class:`DataError`.
    """
    found: dict[bytes, Span] = {}
    for tag, first, end in fields(data, start, stop):
        if tag == _FIRST:
            _scan_entries(data, first, end, wanted, found)
    return found


def bytes_places(data: Buffer, start: int, stop: int) -> array[int]:
    """Return int64 offset, length, offset, length, ... of a bytes list's elements, without copying them."""
    places = array("q")
    if stop + _CRC.size > len(data):  # no checksum behind it to read into: not in a TFRecord file
        places.extend(n for tag, a, b in fields(data, start, stop) if tag == _FIRST for n in (a, b - a))
        return places
    unpack, note = _FOUR_BYTES.unpack_from, places.append
    while start < stop:
        tag, low, middle, high = unpack(data, start)  # up to three bytes of size; the last one is below 128
        if tag != _FIRST:
            raise DataError(f"the bytes list holds tag {tag} at byte {start}. Write the record again")
        if high < 0x80 <= low and middle >= 0x80:  # three bytes: 16 kB to 2 MB, an image
            length, start = low + (middle << 7) + (high << 14) - 0x4080, start + 4
        elif middle < 0x80 <= low:  # two bytes: 128 B to 16 kB, a small image
            length, start = low + (middle << 7) - 0x80, start + 3
        else:
            length, start = read_varint(data, start + 1)
            length = min(length, stop + 1 - start)  # more is over the end, by how much does not matter
        note(start)
        note(length)
        start += length
    if start > stop:
        raise DataError(f"the bytes list runs over its end at byte {stop}. Write the record again")
    return places


def first_bytes(data: Buffer, start: int, stop: int) -> bytes:
    """Return the first element of a bytes list, ``b""`` if it has none."""
    if start < stop and data[start] == _FIRST:  # usual
        length, first = read_varint(data, start + 1)
        if first + length <= stop:
            return data[first : first + length]
    return next((data[first:end] for tag, first, end in fields(data, start, stop) if tag == _FIRST), b"")


def float_values(data: Buffer, start: int, stop: int, expected: int = 0) -> NDArray[np.float32]:
    """Return a float list's values, float32 (n,): a view of the buffer where the list is packed.

    Knowing the number of values to expect saves time where it is right. Any other number comes out too.
    """
    header = _packed_header(4 * expected)
    if stop - start == len(header) + 4 * expected and data[start : start + len(header)] == header:
        return np.frombuffer(data, _FLOAT, expected, start + len(header))
    offset, stride, count = float_layout(data, start, stop)
    if stride == 4:
        return np.frombuffer(data, _FLOAT, count, offset)
    return strided_floats(np.frombuffer(data, np.uint8, count * stride, offset + 4 - stride), stride)


def strided_floats(raw: NDArray[np.uint8], stride: int) -> NDArray[np.float32]:
    """Return the floats in the last 4 of every ``stride`` bytes. See :func:`float_layout`."""
    if stride == 4:
        return raw.view(_FLOAT)
    return np.ascontiguousarray(raw.reshape(-1, stride)[:, stride - 4 :]).view(_FLOAT)[:, 0]


def float_layout(data: Buffer, start: int, stop: int) -> tuple[int, int, int]:
    """Return where a float list's values lie: offset of the first, bytes from one to the next, how many.

    4 bytes from one to the next is the packed form, 5 (a tag before each) the other one. A list in several
    packed pieces, which no writer makes, raises :class:`DataError`.
    """
    if start == stop:
        return start, 4, 0
    if data[start] == _FIRST:
        length, offset = read_varint(data, start + 1)
        if offset + length == stop and length % 4 == 0:
            return offset, 4, length // 4
    count, rest = divmod(stop - start, 5)
    if rest == 0 and data[start:stop:5] == bytes([_ONE_FLOAT]) * count:
        return start + 1, 5, count
    raise DataError(f"the float list at byte {start} is neither one packed row nor tagged values. Write it again")


def int_values(data: Buffer, start: int, stop: int) -> NDArray[np.int64]:
    """Return an int64 list's values, int64 (n,), packed or not."""
    if start < stop and data[start] == _FIRST:
        length, first = read_varint(data, start + 1)
        if first + length == stop and (packed := data[first:stop]).isascii():
            return np.frombuffer(packed, np.uint8).astype(np.int64)  # one byte each: flags and one-hot vectors
    pieces = [(first, end) for tag, first, end in fields(data, start, stop) if tag in (_FIRST, _ONE_INT)]
    values: list[int] = []
    for first, end in pieces:
        position = first
        while position < end:
            value, position = read_varint(data, position)
            values.append(value - (1 << 64) if value >= 1 << 63 else value)
    return np.array(values, dtype=np.int64)


@functools.lru_cache(maxsize=4096)
def _packed_header(size: int) -> bytes:
    """Return what stands before the values of a packed list of ``size`` bytes."""
    return bytes([_FIRST]) + encode_varint(size) if size else b""


def _note(corrupt: list[str] | None, message: str) -> None:
    if corrupt is None:
        raise DataError(message)
    corrupt.append(message)


def _scan_entries(
    data: Buffer, start: int, stop: int, wanted: Collection[bytes] | None, found: dict[bytes, Span]
) -> None:
    """Note the entries of the feature map: in each, field 1 is the name and field 2 the feature.

    Every known writer puts the name first, its size in one byte, and nothing but a list in the feature. That
    form is read here with few steps, any other by :func:`_scan_entry`.
    """
    unpack, safe = _TAG_AND_SIZE.unpack_from, len(data) - _TAG_AND_SIZE.size
    while start < stop:
        tag, word = unpack(data, start) if start <= safe else (data[start], 0)
        # Lowest first: one or two bytes of size (two: 128 B to 16 kB), the name's tag, which is 0x0A, and its size.
        if word & 0x80FF8080 == 0x0A0080:
            first = start + 3
            end = first + (word & 0x7F | word >> 1 & 0x3F80)
            value = first + 2 + (word >> 24)
        elif word & 0x80FF80 == 0x0A00:
            first = start + 2
            end = first + (word & 0x7F)
            value = first + 2 + (word >> 16 & 0x7F)
        else:
            first, end, value = _any_entry(data, start)
        name = data[first + 2 : value]
        if tag != _FIRST or end > stop:
            raise DataError(f"not a tf.train.Example: no feature at byte {start}. The file holds something else")
        start = end
        if wanted is not None and name not in wanted and value < end:
            if len(found) == len(wanted):
                return  # the rest is not asked for
        elif value >= end or data[value] != _SECOND or not _scan_feature(data, name, value, end, found):
            _scan_entry(data, first, end, wanted, found)


def _any_entry(data: Buffer, start: int) -> tuple[int, int, int]:
    """Return first byte and end of an entry's content, and the end of its name: the content's end if unknown."""
    length, first = read_varint(data, start + 1)
    end = first + length
    if first + 1 < min(end, len(data)) and data[first] == _FIRST and data[first + 1] < 0x80:
        return first, end, first + 2 + data[first + 1]
    return first, end, end


def _scan_feature(data: Buffer, name: bytes, start: int, stop: int, found: dict[bytes, Span]) -> bool:
    """Note the one list that a feature consists of, if any. False where there is more, or something unknown."""
    if stop - start > _SIX_BYTES.size:  # usual: two bytes each for its size and the list's, 128 B to 16 kB
        _, low, high, tag, list_low, list_high = _SIX_BYTES.unpack_from(data, start)
        fits = start + low + (high << 7) - 0x7D == stop == start + list_low + (list_high << 7) - 0x7A
        if fits and high < 0x80 <= low and list_high < 0x80 <= list_low and tag in _KIND_OF_TAG:
            found[name] = (_KIND_OF_TAG[tag], start + _SIX_BYTES.size, stop)
            return True
    kind = read_varint(data, start + 1)[1]
    if kind == stop:
        return True  # a feature without a list
    length, first = read_varint(data, kind + 1)
    if data[kind] not in _KIND_OF_TAG or first + length != stop:
        return False
    found[name] = (_KIND_OF_TAG[data[kind]], first, stop)
    return True


def _scan_entry(
    data: Buffer, start: int, stop: int, wanted: Collection[bytes] | None, found: dict[bytes, Span]
) -> None:
    """Note one entry whatever its order of fields, unknown ones included."""
    parts = {tag: (first, end) for tag, first, end in fields(data, start, stop)}
    name_start, name_end = parts.get(_FIRST, (start, start))
    name = data[name_start:name_end]
    if _SECOND in parts and (wanted is None or name in wanted):
        for tag, first, end in fields(data, *parts[_SECOND]):
            if tag in _KIND_OF_TAG:
                found[name] = (_KIND_OF_TAG[tag], first, end)


def _feature(name: str, value: FeatureValue) -> bytes:
    if not isinstance(value, np.ndarray):
        return delimited(BYTES, b"".join(delimited(1, element) for element in value))
    if value.dtype == np.float32:
        return delimited(FLOATS, delimited(1, value.astype("<f4").tobytes()))
    if value.dtype == np.int64:
        numbers = b"".join(encode_varint(int(number) & (1 << 64) - 1) for number in value.reshape(-1))
        return delimited(INTS, delimited(1, numbers))
    raise ValueError(f"feature {name!r} is a {value.dtype} array. An Example holds bytes, float32 or int64 lists")
