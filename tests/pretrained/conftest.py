"""A writer of TensorFlow checkpoints, small enough to read, for the tests of the reader."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from rt1.common.crc32c import masked_crc32c

NUMBERS = {"float32": 1, "float64": 2, "int32": 3, "int64": 9, "float16": 19}
Tensors = Mapping[str, NDArray[Any]]
WriteBundle = Callable[..., Path]
WriteIndex = Callable[[Path, list[tuple[bytes, bytes]]], object]


def _varint(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def _field(number: int, value: int | bytes) -> bytes:
    if isinstance(value, bytes):
        return _varint(number << 3 | 2) + _varint(len(value)) + value
    return _varint(number << 3) + _varint(value)


def _entry(array: NDArray[Any], shard: int, offset: int) -> bytes:
    shape = b"".join(_field(2, _field(1, size)) for size in array.shape)
    data = array.tobytes()
    checksum = _varint(6 << 3 | 5) + masked_crc32c(data).to_bytes(4, "little")
    head = _field(1, NUMBERS[array.dtype.name]) + _field(2, shape)
    return head + _field(3, shard) + _field(4, offset) + _field(5, len(data)) + checksum


def _literal(data: bytes) -> bytes:
    """Compress with snappy in the simplest way: one literal."""
    size = (len(data) - 1).to_bytes(4, "little")
    return _varint(len(data)) + bytes([63 << 2]) + size + data


def _block(entries: list[tuple[bytes, bytes]], *, compress: bool) -> bytes:
    out, previous = bytearray(), b""
    for key, value in entries:
        shared = next((i for i, (a, b) in enumerate(zip(key, previous, strict=False)) if a != b), len(previous))
        shared = min(shared, len(key), len(previous))
        out += _varint(shared) + _varint(len(key) - shared) + _varint(len(value)) + key[shared:] + value
        previous = key
    out += (0).to_bytes(4, "little") + (1).to_bytes(4, "little")
    block = (_literal(bytes(out)) if compress else bytes(out)) + bytes([int(compress)])
    return block + masked_crc32c(block).to_bytes(4, "little")


def _table(entries: list[tuple[bytes, bytes]], *, compress: bool, per_block: int) -> bytes:
    data, handles = bytearray(), []
    for start in range(0, len(entries), per_block):
        part = entries[start : start + per_block]
        block = _block(part, compress=compress)
        handles.append((part[-1][0], _varint(len(data)) + _varint(len(block) - 5)))
        data += block
    meta_start, meta = len(data), _block([], compress=False)
    data += meta
    index_start, index = len(data), _block(handles, compress=compress)
    data += index
    footer = _varint(meta_start) + _varint(len(meta) - 5) + _varint(index_start) + _varint(len(index) - 5)
    return bytes(data) + footer.ljust(40, b"\0") + (0xDB4775248B80FB57).to_bytes(8, "little")


def _write(prefix: Path, tensors: Tensors, *, shards: int = 1, compress: bool = False, per_block: int = 50) -> Path:
    prefix.parent.mkdir(parents=True, exist_ok=True)
    files = [bytearray() for _ in range(shards)]
    entries = [(b"", _field(1, shards))]
    for number, (name, array) in enumerate(sorted(tensors.items())):
        file = files[number % shards]
        entries.append((name.encode(), _entry(array, number % shards, len(file))))
        file += np.ascontiguousarray(array).tobytes()
    index = _table(entries, compress=compress, per_block=per_block)
    prefix.with_name(prefix.name + ".index").write_bytes(index)
    for number, file in enumerate(files):
        prefix.with_name(f"{prefix.name}.data-{number:05d}-of-{shards:05d}").write_bytes(file)
    return prefix


@pytest.fixture(scope="session")
def write_bundle() -> WriteBundle:
    """Write tensors as a TensorFlow checkpoint and return its prefix."""
    return _write


@pytest.fixture(scope="session")
def write_index() -> WriteIndex:
    """Write names and messages as the index of a TensorFlow checkpoint, whatever they hold."""
    return lambda file, entries: file.write_bytes(_table(entries, compress=False, per_block=50))
