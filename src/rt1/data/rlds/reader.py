"""RLDS / Open X-Embodiment data sets as an episode source, read in place without TensorFlow."""

from __future__ import annotations

import functools
import hashlib
import os
import warnings
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rt1.actions import ActionSpec, FloatArray
from rt1.common.border import reading
from rt1.data.rlds.columns import columns_of
from rt1.data.rlds.index import build_index, load_or_build
from rt1.data.rlds.outcome import OutcomeReader
from rt1.data.rlds.schema import (
    FEATURES_FILE,
    RT1_FILE,
    FeatureInfo,
    RLDSLayout,
    find_shards,
    layout_keys,
    read_features,
    read_recorder_notes,
)
from rt1.data.rlds.tfrecord import strided_floats
from rt1.data.sources.base import Outcome, check_steps
from rt1.data.stored_arrays import index_folders
from rt1.errors import DataError

_OPEN_FILES = 128  # a data set may have more shards than a process may open files


class RLDSSource:
    """Episodes of one split of a TFDS folder. An :class:`~rt1.data.sources.base.EpisodeSource`.

    The first opening reads every record once, verifies its checksums and stores an index in ``.rt1-index`` in
    the folder (or below ``~/.cache/rt1/index`` if the folder is read-only). Later openings map that index, which is
    rebuilt when the size or time of change of a file differs. Images stay in the shards: a request is one disk read
    without checksums, safe from several threads.
    """

    def __init__(
        self,
        folder: Path | str,
        *,
        split: str = "train",
        layout: RLDSLayout | None = None,
        action_spec: ActionSpec | None = None,
        name: str | None = None,
        skip_corrupt: bool = False,
    ) -> None:
        """Open a data set.

        Args:
            folder: the folder of one TFDS version: ``features.json`` and ``<name>-<split>.tfrecord-*``.
            split: name of the split.
            layout: keys to read. Needed unless the folder has the ``rt1.json`` of our recorder.
            action_spec: dimensions and bounds of the action. If it has one part per action key, the parts are
                matched by name (the last part of the key) and one-hot choices become indices. Else, the keys
                are joined in the layout's order. None: from ``rt1.json``, else one continuous part per key,
                bounded by the data.
            name: name for tables and errors, default the data set's own.
            skip_corrupt: leave out what cannot be used, warn once with the count, and list it in ``skipped``.

        Raises:
            DataError: a missing folder, an unknown key, a damaged record, or an unusable episode.
        """
        self.folder = Path(folder)
        features = read_features(self.folder)
        notes = read_recorder_notes(self.folder / RT1_FILE, layout=RLDSLayout.from_json)
        shards = find_shards(self.folder, split)
        self.layout = layout or notes.layout or _refuse_guessing(self.folder, features)
        spec = action_spec or notes.action_spec
        with reading(self.folder / FEATURES_FILE, cure="Name the keys that it has"):
            columns = columns_of(features, self.layout, spec)
        settings = {
            "split": split,
            "layout": self.layout.to_json(),
            "parts": columns.named_parts(),
            "skip_corrupt": skip_corrupt,
            "labels": list(columns.instruction.labels) if columns.instruction else [],
            "features": hashlib.sha256((self.folder / FEATURES_FILE).read_bytes()).hexdigest(),
        }
        folders = index_folders(self.folder, split, settings)
        self._index = load_or_build(folders, settings, shards, lambda: build_index(shards, columns, skip=skip_corrupt))
        self.name = name or shards.name
        self.text_encoder, self.details = notes.text_encoder, notes.details
        self.skipped = self._index.skipped
        self.lengths: NDArray[np.int64] = self._index.episodes["steps"].astype(np.int64)
        self.action_spec = spec or columns.spec_of_data(self._index.actions)
        self.action_widths = dict(zip(self.layout.action_keys, columns.widths, strict=True))
        """Number of action entries of each action key, in the layout's order (unless a spec names the parts)."""
        self._first = np.concatenate([[0], np.cumsum(self.lengths)])
        self._shard_of = self._index.episodes["shard"].tolist()
        self._embedding_width = columns.embedding.width if columns.embedding else 0
        self._paths = shards.paths
        self._outcomes = OutcomeReader(features, shards.paths)
        self._open = functools.lru_cache(maxsize=_OPEN_FILES)(_OpenFile)
        self._warn()

    def _warn(self) -> None:
        if self.skipped:
            warnings.warn(f"{self.folder}: {len(self.skipped)} left out, the first: {self.skipped[0]}", stacklevel=3)
        if self._index.changing:
            message = f"{self._index.changing} episodes change their instruction. The first one stands for all steps"
            warnings.warn(f"{self.folder}: {message}", stacklevel=3)

    @property
    def cache_folder(self) -> Path | None:
        """Folder of the index and other files made from the data. None if nothing can be written."""
        return self._index.folder

    def instruction(self, episode: int) -> str:
        return self._index.instructions[self._row(episode)["instruction"]]

    def task(self, episode: int) -> str:
        return self._index.tasks[self._row(episode)["task"]]

    def text_embedding(self, episode: int) -> FloatArray | None:
        """Return the text embedding stored with the first step, float32 (E,), or None."""
        row = self._row(episode)
        stride = int(row["stride"])
        if stride == 0:
            return None
        data = self._read(int(row["shard"]), int(row["embedding"]) + 4 - stride, self._embedding_width * stride)
        return strided_floats(np.frombuffer(data, np.uint8), stride).copy()

    def encoded_images(self, episode: int, start: int, stop: int) -> list[bytes]:
        """Return the JPEG or PNG bytes of steps ``start..stop-1``, by one disk read."""
        rows = self._index.images[self._steps(episode, start, stop)]
        if not len(rows):
            return []
        offsets, lengths = rows["offset"].tolist(), rows["length"].tolist()
        base = offsets[0]
        data = self._read(self._shard_of[episode], base, offsets[-1] + lengths[-1] - base)
        return [data[at - base : at - base + size] for at, size in zip(offsets, lengths, strict=True)]

    def actions(self, episode: int, start: int, stop: int) -> FloatArray:
        return np.array(self._index.actions[self._steps(episode, start, stop)])

    def outcome(self, episode: int) -> Outcome:
        """Return success, seed and rewards of an episode, as far as the data set says. Its record is read again."""
        row = self._row(episode)
        first = int(self._first[episode])
        return self._outcomes.read(int(row["shard"]), int(self._index.images["offset"][first]), int(row["steps"]))

    def _row(self, episode: int) -> np.void:
        check_steps(self, episode)
        return self._index.episodes[episode]

    def _steps(self, episode: int, start: int, stop: int) -> slice:
        check_steps(self, episode, start, stop)
        first = int(self._first[episode])
        return slice(first + start, first + stop)

    def _read(self, shard: int, offset: int, size: int) -> bytes:
        path = self._paths[shard]
        try:
            file = self._open(path)  # the variable keeps it open: another thread may drop it from the cache
            data = os.pread(file.descriptor, size, offset)
        except OSError as error:
            raise DataError(f"{path}: {error.strerror or error}. The file was there when it was opened") from error
        if len(data) != size:
            raise DataError(f"{path} became shorter since it was opened. Download it again, open the source again")
        return data


class _OpenFile:
    """A file descriptor that closes with its last reference, so that a cache may drop it at any time."""

    def __init__(self, path: Path) -> None:
        self.descriptor = -1
        self.descriptor = os.open(path, os.O_RDONLY)

    def __del__(self) -> None:
        if self.descriptor >= 0:
            os.close(self.descriptor)


def _refuse_guessing(folder: Path, features: Mapping[str, FeatureInfo]) -> RLDSLayout:
    cure = "RLDSLayout with image_key=..., instruction_key=... and action_keys=..."
    keys = ", ".join(layout_keys(features))
    raise DataError(f"{folder} has no {RT1_FILE}, so name the keys to read: {cure}. It has {keys}")
