"""TensorFlow checkpoints read without TensorFlow: an index of tensors (an SSTable) and files of raw data.

``PREFIX.index`` lists every tensor's type, shape, place and checksum. ``PREFIX.data-00000-of-00001`` (one file per
shard) holds the bytes. The index is read whole, tensors are read one by one.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rt1.common.border import reading
from rt1.common.crc32c import masked_crc32c
from rt1.common.protobuf import fields, read_varint
from rt1.errors import BundleError

TABLE_MAGIC = 0xDB4775248B80FB57
FOOTER_SIZE = 48
BLOCK_TRAILER_SIZE = 5
MAX_KEY = 1024
"""Longest name of a tensor, bytes. Names share their beginnings: a small block could give any amount of them."""
MAX_TENSORS = 100_000
"""Most tensors of a checkpoint. Google's have about 1,500."""
GIT_LFS_START = b"version https://git-lfs"

DTYPES = {
    1: "float32", 2: "float64", 3: "int32", 4: "uint8", 5: "int16", 6: "int8", 9: "int64", 10: "bool", 14: "bfloat16",
    17: "uint16", 19: "float16", 22: "uint32", 23: "uint64",
}  # fmt: skip
"""TensorFlow's DataType numbers of the types that can be read. Strings and others are only listed."""
ITEM_SIZES = {name: 2 if name == "bfloat16" else np.dtype(name).itemsize for name in DTYPES.values()}
"""Bytes per value of each type."""


@dataclass(frozen=True, kw_only=True)
class TensorEntry:
    """A tensor's entry in the index: its bytes in the data file number ``shard``."""

    name: str
    dtype: str
    """numpy's name of the type (``bfloat16`` aside), or ``type N`` for one that cannot be read."""
    shape: tuple[int, ...]
    shard: int
    offset: int
    size: int
    checksum: int
    """Masked crc32c of the bytes."""
    sliced: bool
    """Whether the tensor is stored in slices, which this reader does not join."""


class TensorBundle:
    """An open checkpoint: :attr:`entries` by name, and :meth:`read` for one tensor."""

    def __init__(self, path: Path | str) -> None:
        """Read the index and check that every data file is there and long enough.

        Args:
            path: ``.../ckpt-123`` (the prefix), one of its files, or a folder with one checkpoint: a SavedModel, its
                ``variables`` folder, or the folder of the files.

        Raises:
            BundleError: no checkpoint or several, a git-lfs pointer, a damaged index, or a truncated data file.
        """
        self.prefix = find_prefix(Path(path))
        self.index_file = self.prefix.with_name(self.prefix.name + ".index")
        with reading(self.index_file, error=BundleError, cure="Get the file again"):
            table = dict(_read_table(self.index_file))
            header = _message(table.pop(b""))
            if _integer(header, 2) != 0:
                raise BundleError(f"{self.index_file} was written on a big-endian machine. Convert it there")
            self.shards = _integer(header, 1, 1)
            self.entries = {key.decode(): _entry(key.decode(), _message(value)) for key, value in table.items()}
        self._check_data_files()

    def read(self, name: str) -> NDArray[Any]:
        """Return one tensor as a new array. bfloat16 comes back as float32.

        Raises:
            BundleError: no such tensor, a type that cannot be read, or bytes that do not match their checksum.
        """
        if name not in self.entries:
            raise BundleError(f"{self.index_file} has no tensor {name!r}. Is this a checkpoint of another network?")
        entry = self.entries[name]
        item_size = ITEM_SIZES.get(entry.dtype)
        if entry.sliced or item_size is None or entry.size != item_size * math.prod(entry.shape):
            about = (
                f"{entry.dtype}, shape {list(entry.shape)}, {entry.size} bytes{', in slices' if entry.sliced else ''}"
            )
            raise BundleError(f"{self.index_file}: {name!r} is {about}. Only whole numeric tensors can be read")
        file = self.data_file(entry.shard)
        with file.open("rb") as stream:
            stream.seek(entry.offset)
            data = stream.read(entry.size)
        if len(data) != entry.size or masked_crc32c(data) != entry.checksum:
            raise BundleError(
                f"{file}: {name!r} at offset {entry.offset} does not match its checksum. Get the file again"
            )
        return np.array(decode_array(data, entry.dtype).reshape(entry.shape))

    def data_file(self, shard: int) -> Path:
        return self.prefix.with_name(f"{self.prefix.name}.data-{shard:05d}-of-{self.shards:05d}")

    def _check_data_files(self) -> None:
        strays = [entry.name for entry in self.entries.values() if entry.shard >= self.shards]
        if strays:
            raise BundleError(
                f"{self.index_file}: {strays[0]!r} lies beyond the {self.shards} data files. Get it again"
            )
        for shard in range(self.shards):
            entries = [entry for entry in self.entries.values() if entry.shard == shard]
            file = self.data_file(shard)
            if not file.is_file():
                raise BundleError(f"{file}, which holds {len(entries)} tensors, is missing. Get it")
            _refuse_git_lfs(file)
            expected = max((entry.offset + entry.size for entry in entries), default=0)
            actual = file.stat().st_size
            if actual < expected:
                raise BundleError(
                    f"{file} is truncated: it has {actual} bytes, its index needs {expected}. Get the whole file, "
                    "or use the SavedModel of the same network if there is one"
                )


def find_prefix(path: Path) -> Path:
    """Return the checkpoint prefix that ``path`` means. See :class:`TensorBundle`."""
    if path.with_name(path.name + ".index").is_file():
        return path
    if path.is_file() and path.suffix == ".index":
        return path.with_suffix("")
    if path.is_file() and ".data-" in path.name:
        return path.with_name(path.name.partition(".data-")[0])
    for folder in (path / "variables", path):
        indices = sorted(folder.glob("*.index"))
        if len(indices) == 1:
            return indices[0].with_suffix("")
        if indices:
            names = ", ".join(file.stem for file in indices)
            raise BundleError(f"{folder} holds {len(indices)} checkpoints ({names}). Add the name of one")
    cure = "Give the prefix (.../ckpt-123) or a SavedModel folder"
    raise BundleError(f"{path} is no TensorFlow checkpoint: no {path.name}.index, no folder with an index. {cure}")


def decode_array(content: bytes, dtype: str) -> NDArray[Any]:
    """Return the little-endian values in bytes, flat. bfloat16, which numpy does not have, becomes float32."""
    if dtype == "bfloat16":
        return (np.frombuffer(content, "<u2").astype(np.uint32) << 16).view(np.float32)
    return np.frombuffer(content, np.dtype(dtype).newbyteorder("<")).astype(dtype, copy=False)


def _read_table(file: Path) -> Iterator[tuple[bytes, bytes]]:
    _refuse_git_lfs(file)
    data = file.read_bytes()
    if len(data) < FOOTER_SIZE or int.from_bytes(data[-8:], "little") != TABLE_MAGIC:
        content = f"the magic number of a TensorFlow index ({len(data)} bytes)"
        raise BundleError(f"{file} does not end with {content}. Get the whole file again")
    at = len(data) - FOOTER_SIZE
    for _ in range(2):  # skips the handle of the meta block
        _, at = read_varint(data, at)
    last, count = None, 0
    for _, handle in _read_block(data, data[at:]):
        for key, value in _read_block(data, handle):
            count += 1
            if (last is not None and key <= last) or count > MAX_TENSORS:
                raise ValueError(f"its names are not in order, or more than {MAX_TENSORS}")
            last = key
            yield key, value


def _read_block(data: bytes, handle: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield the keys and values of the block whose start and size the handle holds."""
    start, at = read_varint(handle, 0)
    size, _ = read_varint(handle, at)
    block, trailer = data[start : start + size], data[start + size : start + size + BLOCK_TRAILER_SIZE]
    if len(trailer) != BLOCK_TRAILER_SIZE:
        raise ValueError(f"a block ends at byte {start + size} of {len(data)}")
    if masked_crc32c(block + trailer[:1]) != int.from_bytes(trailer[1:], "little"):
        raise ValueError(f"the block at byte {start} does not match its checksum")
    if trailer[0] not in (0, 1):
        raise ValueError(f"the block at byte {start} has compression {trailer[0]}. Only snappy (1) is known")
    yield from _block_entries(decompress(block) if trailer[0] else block)


def _block_entries(block: bytes) -> Iterator[tuple[bytes, bytes]]:
    # The block ends with its restart points, which only a search needs.
    end = len(block) - 4 - 4 * int.from_bytes(block[-4:], "little")
    if end < 0:
        raise ValueError(f"a block of {len(block)} bytes has no end")
    key, at = b"", 0
    while at < end:
        shared, at = read_varint(block, at)
        unshared, at = read_varint(block, at)
        length, at = read_varint(block, at)
        if shared > len(key) or shared + unshared > MAX_KEY or at + unshared + length > end:
            raise ValueError(f"an entry of {shared} + {unshared} + {length} bytes does not fit its block")
        key = key[:shared] + block[at : at + unshared]
        at += unshared
        yield key, block[at : at + length]
        at += length


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


Message = Mapping[int, list[int | bytes]]
"""Values of a protocol buffer message by field number: integers, or bytes for nested messages."""


def _message(value: int | bytes) -> Message:
    if not isinstance(value, bytes):
        raise ValueError("a field that must be a message is an integer")
    message: dict[int, list[int | bytes]] = {}
    for tag, start, stop in fields(value, 0, len(value)):
        content = value[start:stop]
        number = read_varint(content, 0)[0] if tag & 7 == 0 else int.from_bytes(content, "little")
        message.setdefault(tag >> 3, []).append(content if tag & 7 == 2 else number)
    return message


def _integer(message: Message, number: int, default: int = 0) -> int:
    value = message.get(number, [default])[0]
    if not isinstance(value, int):
        raise ValueError(f"field {number} is no integer")
    return value


def _entry(name: str, message: Message) -> TensorEntry:
    number = _integer(message, 1)
    shape = _message(message[2][0]).get(2, []) if 2 in message else []
    return TensorEntry(
        name=name,
        dtype=DTYPES.get(number, f"type {number}"),
        shape=tuple(_integer(_message(dimension), 1) for dimension in shape),
        shard=_integer(message, 3),
        offset=_integer(message, 4),
        size=_integer(message, 5),
        checksum=_integer(message, 6),
        sliced=7 in message,
    )


def _refuse_git_lfs(file: Path) -> None:
    with file.open("rb") as stream:
        start = stream.read(200)
    if start.startswith(GIT_LFS_START):
        raise BundleError(f"{file} is a git-lfs pointer. Fetch the file itself with `git lfs pull` in its repository")
