"""A folder of npz files, one episode each, as an episode source, such as V-D4RL's 64-pixel episodes."""

from __future__ import annotations

import functools
import math
import re
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rt1.actions import ActionSpec
from rt1.common.border import reading
from rt1.common.first_look import check_unchanged, stamp_of
from rt1.common.suggest import unknown_name
from rt1.data.arrays.base import ArrayLayout, ArraySource, EpisodeArrays, Image, files_in, image_count, text_of, unstack
from rt1.errors import DataError

_UNPACKED = 4  # episodes kept unpacked at least, since an npz array can only be unpacked whole
_UNPACKED_BYTES = 2**29  # and as many more as this holds: shuffled windows ask for all episodes in turn
_CURE = "Write it again with numpy, without pickled objects"
_MOST_EXPANSION = 1100  # deflate makes at most about 1030 bytes of one
_HEADER = re.compile(
    rb"{'descr': '([<>|=][biufcOSUV?]\d*)', 'fortran_order': (True|False), 'shape': \(([\dL, ]*)\), *}\s*"
)
"""What numpy writes for an array of plain values. Its own parser takes any Python literal."""


class NpzSource(ArraySource):
    """Episodes of a folder of npz files, sorted by name. An :class:`~rt1.data.sources.base.EpisodeSource`.

    An npz file is unpacked whole to read one image, and 512 MB of images stay unpacked. To train on more, convert to
    RLDS.
    """

    def __init__(
        self, folder: Path | str, *, layout: ArrayLayout, action_spec: ActionSpec | None = None, name: str | None = None
    ) -> None:
        """Open a folder of ``*.npz``, without reading images.

        Without ``action_spec`` the action is one continuous part, bounded by the data. ``name`` is for tables and
        errors. The default is the folder's. A damaged file, or an array that is missing, pickled or of another form,
        raises :class:`DataError`.
        """
        folder = Path(folder)
        self._layout = layout
        self._files = files_in(folder, (".npz",))
        self._stamps = [stamp_of(path) for path in self._files]
        episodes = [_episode(path, layout) for path in self._files]
        largest = max(_unpacked_bytes(path, layout.image_key) for path in self._files)
        self._images = functools.lru_cache(maxsize=max(_UNPACKED, _UNPACKED_BYTES // largest))(self._unpack)
        super().__init__(episodes, layout, name=name or folder.resolve().name, action_spec=action_spec)

    def _stored(self, episode: int, start: int, stop: int) -> list[Image]:
        check_unchanged(self._files[episode], self._stamps[episode])
        return unstack(self._images(episode)[start:stop], self._layout)

    def _unpack(self, episode: int) -> NDArray[Any]:
        return _array(self._files[episode], self._layout.image_key)


class _Header(NamedTuple):
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    order: Literal["C", "F"]


def _episode(path: Path, layout: ArrayLayout) -> EpisodeArrays:
    with _opened(path, layout.image_key) as (archive, member), archive.open(member) as file:
        images = _read_header(file, member)
    key = layout.instruction_key
    with reading(path, cure=_CURE):
        return EpisodeArrays(
            where=str(path),
            steps=image_count(str(path), images.shape, images.dtype, layout),
            actions=tuple(_array(path, name) for name in layout.action_keys),
            instruction=text_of(_array(path, key)) if key else "",
            embedding=_array(path, layout.embedding_key) if layout.embedding_key else None,
        )


def _unpacked_bytes(path: Path, key: str) -> int:
    with _opened(path, key) as (_, member):
        return member.file_size


def _array(path: Path, key: str) -> NDArray[Any]:
    with _opened(path, key) as (archive, member), archive.open(member) as file:
        header = _read_header(file, member)
        content = file.read(member.file_size)  # zipfile compares the checksum only at the end
        return np.frombuffer(content, header.dtype).reshape(header.shape, order=header.order).copy()


@contextmanager
def _opened(path: Path, key: str) -> Iterator[tuple[zipfile.ZipFile, zipfile.ZipInfo]]:
    """Yield the archive and the member that holds an array. A damaged one raises :class:`DataError`."""
    with reading(f"{path}: {key!r}", cure=_CURE, also=(zipfile.BadZipFile,)), zipfile.ZipFile(path) as archive:
        members = {member.filename.removesuffix(".npy"): member for member in archive.infolist()}
        if key not in members:
            raise DataError(f"{path}: {unknown_name('array', key, members)}")
        if members[key].file_size > _MOST_EXPANSION * path.stat().st_size:
            raise DataError(f"{path}: {key!r} claims {members[key].file_size} bytes, more than the file can hold")
        yield archive, members[key]


def _read_header(file: IO[bytes], member: zipfile.ZipInfo) -> _Header:
    """Return the header of an array. The member must hold all of its values and nothing else."""
    major, _ = np.lib.format.read_magic(file)
    size = 2 if major == 1 else 4
    text = file.read(int.from_bytes(file.read(size), "little"))
    match = _HEADER.fullmatch(text)
    if match is None:
        raise ValueError(f"its header is {text[:100]!r}")
    shape = tuple(int(length.rstrip(b"L")) for length in match[3].replace(b" ", b"").split(b",") if length)
    dtype = np.dtype(match[1].decode())
    if dtype.hasobject:
        raise ValueError("it holds pickled objects, which are not read")
    content_bytes = member.file_size - len(np.lib.format.magic(1, 0)) - size - len(text)
    if math.prod(shape) * dtype.itemsize != content_bytes:
        raise ValueError(f"it is {dtype} {shape} by its header and holds {content_bytes} bytes")
    return _Header(shape=shape, dtype=dtype, order="F" if match[2] == b"True" else "C")
