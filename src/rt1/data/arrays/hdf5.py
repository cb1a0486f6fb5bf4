"""HDF5 files of episodes as an episode source: one episode a file, a group or a run of rows."""

from __future__ import annotations

import functools
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from rt1.actions import ActionSpec
from rt1.common.border import describe, reading
from rt1.common.first_look import COPY_AGAIN, check_unchanged, first_look
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
from rt1.data.sources.base import check_steps
from rt1.data.sources.images import decode_image
from rt1.errors import DataError

if TYPE_CHECKING:
    import h5py  # type: ignore[import-untyped,import-not-found,unused-ignore]

_ENDINGS = (".hdf5", ".h5")
_OPEN_FILES = 64
_SCANNED_BYTES = 2**20  # of the images of a file, in the first look; after these, the first and last of an episode
_MOST_EXPANSION = 1100  # bytes that deflate, the filter in use, can make of one, and a little more


@dataclass(frozen=True, kw_only=True)
class HDF5Layout(ArrayLayout):
    """Where the episodes of HDF5 files are. An instruction may also be an attribute of the episode's group."""

    group: str = ""
    """Group whose members are the episodes, e.g. ``data`` in robomimic's files; empty: the file itself is the episode,
    or holds rows of several, see ``start_key``."""
    start_key: str | None = None
    """Array whose value tells the rows where an episode begins, where one array holds several; None: one each."""
    start_value: int = 1
    """The value of ``start_key`` at such a row."""
    encoded: bool = False
    """Whether a row of ``image_key`` is a JPEG or PNG, bytes perhaps padded with zeros, instead of pixels."""


def v_d4rl_layout(instruction: str) -> HDF5Layout:
    """Return the layout of V-D4RL's 84-pixel HDF5 files, which have no instruction: give the sentence."""
    return HDF5Layout(
        image_key="observation",
        instruction=instruction,
        channels_first=True,
        action_leads_here=True,
        start_key="step_type",
        start_value=0,
    )


@dataclass(frozen=True, kw_only=True)
class _Place:
    """Rows of a file that are one episode."""

    path: Path
    group: str
    start: int
    stop: int


class HDF5Source(ArraySource):
    """Episodes of HDF5 files, files and groups in the order of their names; an ``EpisodeSource``. Needs ``h5py``."""

    def __init__(
        self,
        path: Path | str,
        *,
        layout: HDF5Layout,
        action_spec: ActionSpec | None = None,
        name: str | None = None,
    ) -> None:
        """Open a file or a folder of files; images are not read.

        Args:
            path: an HDF5 file, or a folder of ``*.hdf5`` and ``*.h5``.
            layout: which arrays hold what.
            action_spec: dimensions and bounds of the action. None: one continuous part, bounded by the data.
            name: name for tables and errors, default that of the file or folder.

        Raises:
            DataError: nothing there, a damaged file, a key that is missing or holds something else.
            ImportError: ``h5py`` is not installed.
        """
        _require_h5py()
        path = Path(path)
        self._layout = layout
        self._open = functools.lru_cache(maxsize=_OPEN_FILES)(_open)
        files = [path] if path.is_file() else files_in(path, _ENDINGS)
        self._stamps = {
            file: first_look("rt1.data.arrays.hdf5:look_at_file", file, asdict(layout), library="h5py")
            for file in files
        }
        found = [pair for file in files for pair in _episodes(file, self._open(file), layout)]
        self._places = [place for place, _ in found]
        episodes = [episode for _, episode in found]
        super().__init__(episodes, layout, name=name or path.resolve().stem, action_spec=action_spec)

    def encoded_images(self, episode: int, start: int, stop: int) -> list[bytes]:
        """Return the stored JPEG or PNG bytes, or PNG bytes made on the spot where pixels are stored."""
        if not self._layout.encoded:
            return super().encoded_images(episode, start, stop)
        check_steps(self, episode, start, stop)
        with reading(self._where[episode], cure=COPY_AGAIN):
            return [np.asarray(row, np.uint8).tobytes().rstrip(b"\0") for row in self._rows(episode, start, stop)]

    def _read_images(self, episode: int, start: int, stop: int) -> list[Image]:
        if not self._layout.encoded:
            return unstack(self._rows(episode, start, stop), self._layout)
        return [decode_image(data) for data in self.encoded_images(episode, start, stop)]

    def _rows(self, episode: int, start: int, stop: int) -> NDArray[Any]:
        place = self._places[episode]
        check_unchanged(place.path, self._stamps[place.path])
        group = self._open(place.path)[place.group or "/"]
        return group[self._layout.image_key][place.start + start : place.start + stop]


def look_at_file(path: str, layout: dict[str, Any]) -> None:
    """Read from a file what :class:`HDF5Source` relies on, and its images, a few of them where there are many.

    h5py may crash or hang on a damaged file: this runs in the process of a first look.
    """
    read = HDF5Layout(**layout)
    left = _SCANNED_BYTES
    with _open(Path(path)) as file:
        for place, episode in _episodes(Path(path), file, read):
            with reading(episode.where, cure=COPY_AGAIN):
                images = file[place.group or "/"][read.image_key]
                if images.chunks is not None and place.start == 0:
                    images.id.chunk_iter(lambda _: None)  # the whole index of the chunks
                for row in range(place.start, place.stop):
                    if left > 0 or row in (place.start, place.stop - 1):
                        left -= np.asarray(images[row]).nbytes


def _require_h5py() -> None:
    try:
        import h5py  # noqa: F401
    except ImportError as error:
        raise ImportError("reading HDF5 episodes needs h5py: pip install h5py") from error


def _open(path: Path) -> h5py.File:
    import h5py

    try:
        return h5py.File(path, "r")
    except OSError as error:
        raise DataError(f"{path} is no HDF5 file or damaged ({describe(error)}); {COPY_AGAIN}") from error


def _episodes(path: Path, file: h5py.File, layout: HDF5Layout) -> list[tuple[_Place, EpisodeArrays]]:
    with reading(path, cure=COPY_AGAIN):
        if not layout.group:
            return _rows_of_episodes(path, "", file, layout)
        if layout.group not in file:
            raise DataError(f"{path}: {unknown_name('group', layout.group, list(file))}")
        names = sorted(file[layout.group], key=natural_order)
        groups = [f"{layout.group}/{name}" for name in names]
        return [pair for group in groups for pair in _rows_of_episodes(path, group, file[group], layout)]


def _rows_of_episodes(
    path: Path, group: str, content: h5py.Group, layout: HDF5Layout
) -> list[tuple[_Place, EpisodeArrays]]:
    where = f"{path}:{group}" if group else str(path)
    images, actions = _array(where, content, layout.image_key), _array(where, content, layout.action_key)
    rows = _encoded_count(where, images) if layout.encoded else image_count(where, images.shape, images.dtype, layout)
    if rows != len(actions):
        raise DataError(f"{where}: {rows} images and {len(actions)} actions; store one each a step")
    starts = _starts(where, content, layout)
    found = []
    for start, stop in zip(starts, [*starts[1:], rows], strict=True):
        key = layout.embedding_key
        episode = EpisodeArrays(
            where=where if len(starts) == 1 else f"{where}, row {start}",
            steps=stop - start,
            actions=actions[start:stop],
            instruction=_instruction(where, content, layout, start),
            embedding=_row_or_all(_array(where, content, key), start) if key else None,
        )
        found.append((_Place(path=path, group=group, start=start, stop=stop), episode))
    return found


def _encoded_count(where: str, images: h5py.Dataset) -> int:
    import h5py

    listed = images.ndim == 1 and h5py.check_vlen_dtype(images.dtype) == np.uint8
    if not listed and (images.ndim != 2 or images.dtype != np.uint8):
        raise DataError(f"{where}: the images are {images.dtype} {images.shape}; encoded ones must be rows of uint8")
    return len(images)


def _array(where: str, content: h5py.Group, key: str) -> h5py.Dataset:
    import h5py

    found = content.get(key) if isinstance(content, h5py.Group) else None
    if not isinstance(found, h5py.Dataset):
        known: list[str] = []
        if isinstance(content, h5py.Group):
            content.visititems(lambda name, item: known.append(name) if isinstance(item, h5py.Dataset) else None)
        raise DataError(f"{where}: {unknown_name('array', key, known)}")
    if found.file.id != content.file.id or found.is_virtual or found.external:
        raise DataError(f"{where}: {key!r} is stored in another file, which is not read; copy it into this one")
    if found.nbytes > _MOST_EXPANSION * content.file.id.get_filesize() or not _is_whole(found):
        raise DataError(f"{where}: the file does not hold all {found.nbytes} bytes of {key!r}; {COPY_AGAIN}")
    return found


def _is_whole(array: h5py.Dataset) -> bool:
    """Whether every value was written: HDF5 gives zeros in place of those that were not."""
    if array.chunks is None or not array.size:
        return array.id.get_storage_size() >= array.nbytes
    chunks = (-(-length // chunk) for length, chunk in zip(array.shape, array.chunks, strict=True))
    return array.id.get_num_chunks() == math.prod(chunks)


def _starts(where: str, content: h5py.Group, layout: HDF5Layout) -> list[int]:
    if layout.start_key is None:
        return [0]
    flags = _array(where, content, layout.start_key)[:]
    starts = np.flatnonzero(flags == layout.start_value).tolist()
    if starts[:1] != [0]:
        wanted = f"{layout.start_key!r} is {layout.start_value}"
        raise DataError(f"{where}: row 0 begins no episode ({wanted} there); check start_key and start_value")
    return starts


def _instruction(where: str, content: h5py.Group, layout: HDF5Layout, start: int) -> str:
    key = layout.instruction_key
    if key is None:
        return layout.instruction
    if key in content.attrs:
        return text_of(content.attrs[key])
    return text_of(_row_or_all(_array(where, content, key), start))


def _row_or_all(array: h5py.Dataset, row: int) -> Any:  # noqa: ANN401 (whatever is stored: a string, bytes, an array)
    """Return what holds at a row of an array with a row a step; else the only value there is."""
    return array[row] if array.ndim and len(array) > row and (array.ndim > 1 or array.dtype.kind in "OS") else array[()]
