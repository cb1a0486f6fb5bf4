"""HDF5 files as an episode source: an episode is a file, a group or a run of rows."""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from rt1.actions import ActionSpec
from rt1.common.border import reading
from rt1.common.first_look import COPY_AGAIN, check_unchanged, first_look
from rt1.common.json_files import read_object
from rt1.common.suggest import unknown_name
from rt1.data.arrays.base import (
    ArrayLayout,
    ArraySource,
    EpisodeArrays,
    Image,
    files_in,
    image_count,
    natural_order,
    text_of,
    unstack,
)
from rt1.errors import DataError

if TYPE_CHECKING:
    import h5py  # type: ignore[import-untyped,import-not-found,unused-ignore]

_ENDINGS = (".hdf5", ".h5")
_OPEN_FILES = 64
_SCANNED_BYTES = 2**20  # image bytes read in a first look; after these, only the first and last image of an episode
_MOST_EXPANSION = 1100  # deflate makes at most about 1030 bytes of one


@dataclass(frozen=True, kw_only=True)
class HDF5Layout(ArrayLayout):
    """Keys of HDF5 files. An instruction may also be an attribute of the episode's group or of a group around it."""

    group: str = ""
    """Group whose members are the episodes, such as ``data`` in robomimic's files, ``/`` for the file's own groups.
    Empty: the file is one episode, or holds rows of several, see ``start_key``."""
    mask: str | None = None
    """Name of the array in the file's group ``mask`` with the names of the episodes to read, such as ``train``."""
    start_key: str | None = None
    """Array that marks the rows where an episode begins, if one array holds several episodes."""
    start_value: int | None = None
    """Value of ``start_key`` at such a row. None: its value at row 0."""
    encoded: bool = False
    """Whether a row of ``image_key`` must be an encoded image, padded with zeros or not. The type of the array says
    whether it is one: bytes of any kind, or a row of bytes."""
    instruction_file: str = ""
    """JSON file with the instruction of an episode's file, relative to that file. ``{stem}`` is the name of the
    episode's file without its ending. ``instruction_key`` is then its key."""


class _Rows(NamedTuple):
    """The rows of one episode in a file."""

    path: Path
    group: str
    start: int
    stop: int


class HDF5Source(ArraySource):
    """Episodes of HDF5 files, sorted by file and group name. An ``EpisodeSource``. Needs ``h5py``."""

    def __init__(
        self, path: Path | str, *, layout: HDF5Layout, action_spec: ActionSpec | None = None, name: str | None = None
    ) -> None:
        """Open an HDF5 file, or a folder of ``*.hdf5`` and ``*.h5``, without reading images.

        Without ``action_spec`` the action is one continuous part, bounded by the data. ``name`` is for tables and
        errors. The default is that of the file or folder.

        Raises:
            DataError: a missing or damaged file, or a key that is missing or holds something else.
            ModuleNotFoundError: ``h5py`` is not installed.
        """
        import h5py  # noqa: F401 (refused before the files are read)

        path = Path(path)
        self._layout = layout
        self._open = functools.lru_cache(maxsize=_OPEN_FILES)(_open)
        files = [path] if path.is_file() else files_in(path, _ENDINGS)
        self._stamps = {
            file: first_look("rt1.data.arrays.hdf5:look_at_file", file, asdict(layout), library="h5py")
            for file in files
        }
        pairs = [pair for file in files for pair in _episodes(file, self._open(file), layout)]
        self._row_ranges = [rows for rows, _ in pairs]
        episodes = [episode for _, episode in pairs]
        super().__init__(episodes, layout, name=name or path.resolve().stem, action_spec=action_spec)

    def _stored(self, episode: int, start: int, stop: int) -> Sequence[bytes | Image]:
        path, group, first, _ = self._row_ranges[episode]
        check_unchanged(path, self._stamps[path])
        rows = self._open(path)[group or "/"][self._layout.image_key][first + start : first + stop]
        return unstack(rows, self._layout) if rows.ndim == 4 else [_image_bytes(row) for row in rows]


def look_at_file(path: str, layout: dict[str, Any]) -> None:
    """Read what :class:`HDF5Source` needs of a file, and some images.

    h5py may crash or hang on a damaged file, so this runs in a process of its own, see ``first_look``.
    """
    hdf5_layout = HDF5Layout(**layout)
    unread_bytes = _SCANNED_BYTES
    with _open(Path(path)) as file:
        for (_, group, start, stop), episode in _episodes(Path(path), file, hdf5_layout):
            with reading(episode.where, cure=COPY_AGAIN):
                images = file[group or "/"][hdf5_layout.image_key]
                if images.chunks is not None and start == 0:
                    images.id.chunk_iter(lambda _: None)  # reads the whole index of the chunks
                for row in range(start, stop):
                    if unread_bytes > 0 or row in (start, stop - 1):
                        unread_bytes -= np.asarray(images[row]).nbytes


def _open(path: Path) -> h5py.File:
    import h5py

    with reading(path, cure=COPY_AGAIN):
        return h5py.File(path, "r")


def _episodes(path: Path, file: h5py.File, layout: HDF5Layout) -> list[tuple[_Rows, EpisodeArrays]]:
    with reading(path, cure=COPY_AGAIN):
        if not layout.group:
            return _rows_of_episodes(path, "", file, layout)
        if layout.group not in file:
            raise DataError(f"{path}: {unknown_name('group', layout.group, list(file))}")
        groups = [f"{layout.group.rstrip('/')}/{name}" for name in _episode_names(path, file, layout)]
        return [pair for group in groups for pair in _rows_of_episodes(path, group, file[group], layout)]


def _episode_names(path: Path, file: h5py.File, layout: HDF5Layout) -> list[str]:
    """Return the members of the layout's group that its mask names, or all of its groups, in natural order."""
    import h5py

    content = file[layout.group]
    if layout.mask is None:
        names = [name for name in content if content.get(name, getclass=True) is h5py.Group]
        if not names:
            raise DataError(f"{path}: the group {layout.group!r} holds no groups. Name the one that holds the episodes")
        return sorted(names, key=natural_order)
    masks = list(file["mask"]) if isinstance(file.get("mask"), h5py.Group) else []
    if layout.mask not in masks:
        raise DataError(f"{path}: {unknown_name('mask', layout.mask, masks)}")
    names = [text_of(name) for name in _array(str(path), file["mask"], layout.mask)[:]]
    if missing := [name for name in names if name not in content]:
        raise DataError(f"{path}: mask {layout.mask!r} names the episode {missing[0]!r}, which the file does not hold")
    return sorted(names, key=natural_order)


def _image_bytes(row: Any) -> bytes:  # noqa: ANN401 (bytes, an opaque value or an array)
    data = row if isinstance(row, bytes) else np.asarray(row).tobytes()
    return data.rstrip(b"\0")


def _rows_of_episodes(
    path: Path, group: str, content: h5py.Group, layout: HDF5Layout
) -> list[tuple[_Rows, EpisodeArrays]]:
    where = f"{path}:{group}" if group else str(path)
    images = _array(where, content, layout.image_key)
    actions = [_array(where, content, key) for key in layout.action_keys]
    rows = _image_rows(where, images, layout)
    if layout.start_key is None and not layout.action_is_previous and rows == len(actions[0]) + 1:
        rows -= 1  # Gymnasium's recorders store the image that follows the last action, too
    if other := next((len(array) for array in actions if len(array) != rows), None):
        raise DataError(f"{where}: {rows} images and {other} actions. Store one each a step")
    starts, key = _starts(where, content, layout), layout.embedding_key
    instruction = _file_instruction(path, layout)
    pairs = []
    for start, stop in zip(starts, [*starts[1:], rows], strict=True):
        episode = EpisodeArrays(
            where=where if len(starts) == 1 else f"{where}, row {start}",
            steps=stop - start,
            actions=tuple(array[start:stop] for array in actions),
            instruction=_instruction(where, content, layout, start) if instruction is None else instruction,
            embedding=_row_or_all(_array(where, content, key), start) if key else None,
        )
        pairs.append((_Rows(path, group, start, stop), episode))
    return pairs


def _image_rows(where: str, images: h5py.Dataset, layout: HDF5Layout) -> int:
    """Return the number of images in an array of pixels or of encoded images."""
    import h5py

    item = h5py.check_vlen_dtype(images.dtype) or images.dtype
    rows_of_bytes = images.ndim == 1 and (images.dtype.kind in "SV" or (images.dtype.kind == "O" and item == np.uint8))
    if rows_of_bytes or (images.ndim == 2 and item.itemsize == 1):
        return len(images)
    if layout.encoded:
        raise DataError(
            f"{where}: the images are {images.dtype} {images.shape}. Encoded ones must be rows of bytes (uint8, S or V)"
        )
    return image_count(where, images.shape, images.dtype, layout)


def _array(where: str, content: h5py.Group, key: str) -> h5py.Dataset:
    import h5py

    array = content.get(key) if isinstance(content, h5py.Group) else None
    if not isinstance(array, h5py.Dataset):
        names: list[str] = []
        if isinstance(content, h5py.Group):
            content.visititems(lambda name, item: names.append(name) if isinstance(item, h5py.Dataset) else None)
        raise DataError(f"{where}: {unknown_name('array', key, names)}")
    if array.file.id != content.file.id or array.is_virtual or array.external:
        raise DataError(f"{where}: {key!r} is stored in another file, which is not read. Copy it into this one")
    if array.nbytes > _MOST_EXPANSION * content.file.id.get_filesize() or not _is_whole(array):
        raise DataError(f"{where}: the file does not hold all {array.nbytes} bytes of {key!r}. {COPY_AGAIN}")
    return array


def _is_whole(array: h5py.Dataset) -> bool:
    """Return whether every value was written: HDF5 returns zeros for missing ones."""
    if array.chunks is None or not array.size:
        return array.id.get_storage_size() >= array.nbytes
    chunks = (-(-length // chunk) for length, chunk in zip(array.shape, array.chunks, strict=True))
    return array.id.get_num_chunks() == math.prod(chunks)


def _starts(where: str, content: h5py.Group, layout: HDF5Layout) -> list[int]:
    if layout.start_key is None:
        return [0]
    flags = _array(where, content, layout.start_key)[:]
    value = flags[0] if layout.start_value is None and len(flags) else layout.start_value
    starts = np.flatnonzero(flags == value).tolist()
    if starts[:1] != [0]:
        mark = f"{layout.start_key!r} is {value}"
        raise DataError(f"{where}: row 0 begins no episode ({mark} there). Check start_key and start_value")
    return starts


def _instruction(where: str, content: h5py.Group, layout: HDF5Layout, start: int) -> str:
    """Return the stored instruction: an attribute, the nearest one, or an array. Empty if there is a default for it."""
    key = layout.instruction_key
    if key is None:
        return ""
    holder = content
    while key not in holder.attrs and holder.name != "/":
        holder = holder.parent
    if key in holder.attrs:
        return text_of(holder.attrs[key])
    if key not in content:
        if layout.instruction:
            return ""
        known = [*content.attrs, *content]
        raise DataError(f"{where}: {unknown_name('instruction', key, known)}. Or give instruction=SENTENCE")
    return text_of(_row_or_all(_array(where, content, key), start))


def _file_instruction(path: Path, layout: HDF5Layout) -> str | None:
    """Return the instruction in the layout's JSON file, None without one. A missing file gives an empty one."""
    if not layout.instruction_file:
        return None
    file = path.parent / layout.instruction_file.replace("{stem}", path.stem)
    if layout.instruction and not file.is_file():
        return ""
    content = read_object(file, cure="Copy it from where the episodes came from, or give instruction=SENTENCE")
    if layout.instruction_key not in content:
        raise DataError(f"{file}: {unknown_name('key', str(layout.instruction_key), content)}")
    return json.dumps(content[layout.instruction_key])


def _row_or_all(array: h5py.Dataset, row: int) -> Any:  # noqa: ANN401 (whatever is stored: a string, bytes, an array)
    """Return the row of an array with one row per step, else its only value."""
    return array[row] if array.ndim and len(array) > row and (array.ndim > 1 or array.dtype.kind in "OS") else array[()]
