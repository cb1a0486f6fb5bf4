"""A folder of npz files, one episode each, as an episode source; V-D4RL's 64-pixel episodes among them."""

from __future__ import annotations

import functools
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rt1.actions import ActionSpec
from rt1.data.arrays import ArrayLayout, ArraySource, EpisodeArrays, Image, files_in, image_count, text_of, unstack
from rt1.errors import DataError
from rt1.names import unknown_name

_UNPACKED = 4  # episodes kept unpacked: an npz file is unpacked whole, whatever is asked of it
_DAMAGE = (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile, zlib.error, NotImplementedError)


def v_d4rl_layout(instruction: str) -> ArrayLayout:
    """Return the layout of V-D4RL's 64-pixel npz episodes, which have no instruction: give the sentence."""
    return ArrayLayout(instruction=instruction, action_leads_here=True)


class NpzSource(ArraySource):
    """Episodes of a folder of npz files, in the order of their names; an :class:`~rt1.data.episode.EpisodeSource`.

    Images of an npz file can only be unpacked all at once: for training on more than a few hundred episodes, convert
    the set to RLDS.
    """

    def __init__(
        self,
        folder: Path | str,
        *,
        layout: ArrayLayout,
        action_spec: ActionSpec | None = None,
        name: str | None = None,
    ) -> None:
        """Open a folder; of the images only the headers are read.

        Args:
            folder: holds ``*.npz``, one episode each.
            layout: which arrays hold what.
            action_spec: dimensions and bounds of the action. None: one continuous part, bounded by the data.
            name: name for tables and errors, default the folder's.

        Raises:
            DataError: nothing there, a damaged file, an array that is missing, pickled or of another form.
        """
        folder = Path(folder)
        self._layout = layout
        self._files = files_in(folder, (".npz",))
        self._images = functools.lru_cache(maxsize=_UNPACKED)(self._unpack)
        episodes = [_episode(path, layout) for path in self._files]
        super().__init__(episodes, layout, name=name or folder.resolve().name, action_spec=action_spec)

    def _read_images(self, episode: int, start: int, stop: int) -> list[Image]:
        return unstack(self._images(episode)[start:stop], self._layout)

    def _unpack(self, episode: int) -> NDArray[Any]:
        return _array(self._files[episode], self._layout.image_key)


def _episode(path: Path, layout: ArrayLayout) -> EpisodeArrays:
    shape, dtype = _header(path, layout.image_key)
    key = layout.instruction_key
    return EpisodeArrays(
        where=str(path),
        steps=image_count(str(path), shape, dtype, layout),
        actions=_array(path, layout.action_key),
        instruction=text_of(_array(path, key)) if key else layout.instruction,
        embedding=_array(path, layout.embedding_key) if layout.embedding_key else None,
    )


def _array(path: Path, key: str) -> NDArray[Any]:
    try:
        with np.load(path, allow_pickle=False) as archive:
            if key in archive:
                return archive[key]
            known = list(archive)
    except _DAMAGE as error:
        raise _damaged(path, key, error) from error
    raise DataError(f"{path}: {unknown_name('array', key, known)}")


def _header(path: Path, key: str) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Return shape and dtype of an array without unpacking it."""
    try:
        with zipfile.ZipFile(path) as archive:
            known = [name.removesuffix(".npy") for name in archive.namelist()]
            if key in known:
                with archive.open(f"{key}.npy") as file:
                    version = np.lib.format.read_magic(file)
                    first = version == (1, 0)
                    read = np.lib.format.read_array_header_1_0 if first else np.lib.format.read_array_header_2_0
                    shape, _, dtype = read(file)
                    return shape, dtype
    except _DAMAGE as error:
        raise _damaged(path, key, error) from error
    raise DataError(f"{path}: {unknown_name('array', key, known)}")


def _damaged(path: Path, key: str, error: Exception) -> DataError:
    return DataError(f"{path}: {key!r} cannot be read ({error}); write it again with numpy, without pickled objects")
