"""The index of an RLDS split, built in one pass over the shards: reading a step is then one disk read."""

from __future__ import annotations

import logging
from array import array
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rt1.actions import FloatArray
from rt1.common.border import reading
from rt1.common.protobuf import Buffer
from rt1.data.rlds.columns import Columns, embedding_of, span_of, text_of, values_of
from rt1.data.rlds.instructions import instruction_of
from rt1.data.rlds.schema import Shards
from rt1.data.rlds.tfrecord import BYTES, FRAME_START, bytes_places, map_file, scan_example, scan_records
from rt1.data.stored_arrays import StoredArrays, load_or_make
from rt1.errors import DataError

_log = logging.getLogger(__name__)

FORMAT = 3
_CURE = "Record it again, or pass skip_corrupt=True to leave such episodes out"
IMAGE = np.dtype([("offset", "<i8"), ("length", "<u4")])
_ARRAYS = ("episodes", "images", "actions")
_TEXTS = ("instructions", "tasks", "skipped")
_FACTS = (*_TEXTS, "changing")
EPISODE = np.dtype(
    [(name, "<i4") for name in ("shard", "steps", "instruction", "task", "stride")] + [("embedding", "<i8")]
)
"""``embedding``: file offset of the text embedding. ``stride``: its bytes per value, 0 if there is none."""


@dataclass(frozen=True, kw_only=True)
class Index:
    """File offsets, actions and texts of a split. Arrays of a stored index are memory-mapped."""

    episodes: NDArray[Any]
    """(E,) of dtype ``EPISODE``."""
    images: NDArray[Any]
    """(all steps,) of dtype ``IMAGE``: file offset and length of each encoded image."""
    actions: FloatArray
    """(all steps, A)."""
    instructions: tuple[str, ...]
    """The distinct instructions."""
    tasks: tuple[str, ...]
    """The distinct task names."""
    skipped: tuple[str, ...]
    """One message per skipped record."""
    changing: int = 0
    """Number of episodes whose instruction changes. The first one is kept."""
    folder: Path | None = None
    """Folder of the index and other files made from the same data. None if nothing can be written."""


def load_or_build(
    folders: Sequence[Path], settings: Mapping[str, Any], shards: Shards, build: Callable[[], Index]
) -> Index:
    """Return the stored index, or build and store it, see :func:`rt1.data.stored_arrays.load_or_make`."""

    def make() -> StoredArrays:
        index = vars(build())
        return StoredArrays(
            arrays={name: index[name] for name in _ARRAYS}, facts={name: index[name] for name in _FACTS}
        )

    stored = load_or_make(
        folders,
        {"format": FORMAT, **settings},
        shards.paths,
        make,
        is_sound=lambda stored: _is_sound(stored, [path.stat().st_size for path in shards.paths]),
    )
    return _index_of(stored)


def build_index(shards: Shards, columns: Columns, *, skip: bool) -> Index:
    """Return the index from one pass over all records, with checksums verified and actions copied.

    A damaged or missing file, an episode without steps, instruction or actions, or an action that is not finite raises
    :class:`DataError`, or with ``skip`` is left out and listed in ``Index.skipped``.
    """
    _log.info("indexing %d files of %s, which is done once", len(shards.paths), shards.paths[0].parent)
    builder = _Builder(columns, skipped=[] if skip else None)
    if shards.missing:
        total = len(shards.missing) + len(shards.paths)
        builder.note(
            f"{shards.paths[0].parent}: {len(shards.missing)} of {total} shards are missing, the first is "
            f"{shards.missing[0]}. Download it, or pass skip_corrupt=True to read the others"
        )
    for number, (path, promised) in enumerate(zip(shards.paths, shards.lengths, strict=True)):
        builder.add_shard(number, path, promised)
    return builder.finish(shards)


class _Record(NamedTuple):
    """One episode. ``images`` are offset, length, offset, and so on. ``values`` are flat, one array per action key."""

    steps: int
    images: array[int]
    values: list[NDArray[Any]]
    instruction: bytes
    task: bytes
    embedding: int
    stride: int
    changes: bool
    where: str


class _Builder:
    """Collects the columns of an index shard by shard."""

    def __init__(self, columns: Columns, *, skipped: list[str] | None) -> None:
        self.columns = columns
        self.skipped = skipped
        features = [columns.image, columns.instruction, columns.embedding, columns.task, *columns.actions]
        self.keys = frozenset(feature.record_key for feature in features if feature)
        self.instructions: dict[bytes, int] = {}
        self.tasks: dict[bytes, int] = {}
        self.episodes: list[tuple[int, ...]] = []
        self.images: list[NDArray[Any]] = []
        self.changing = 0
        self.actions: list[FloatArray] = []

    def note(self, message: str) -> None:
        if self.skipped is None:
            raise DataError(message)
        self.skipped.append(message)

    def add_shard(self, number: int, path: Path, promised: int | None) -> None:
        data = map_file(path)
        records: list[_Record] = []
        corrupt: list[str] | None = None if self.skipped is None else []
        count = 0
        for start, stop in scan_records(path, data, corrupt=corrupt):
            where = f"{path}: episode {count} of this file, at byte {start - FRAME_START}"
            count += 1
            try:
                with reading(where, cure="Write the record again"):
                    records.append(self._record(data, start, stop, where))
            except DataError as error:
                self.note(f"{error}. {_CURE}")
        for message in corrupt or ():
            self.note(message)
        if promised not in (None, count) and not corrupt:
            self.note(f"{path}: {count} episodes, but dataset_info.json promises {promised}. Download it again")
        try:
            self._append(number, records)
        except DataError:  # one by one, to find the records with an error
            for record in records:
                try:
                    self._append(number, [record])
                except DataError as error:
                    self.note(f"{record.where}: {error}. {_CURE}")

    def _actions(self, records: list[_Record]) -> FloatArray:
        values = [
            np.concatenate([record.values[i] for record in records]).reshape(-1, feature.width)
            for i, feature in enumerate(self.columns.actions)
        ]
        with np.errstate(over="ignore", invalid="ignore"):  # values beyond float32 become infinite, refused below
            actions = self.columns.join(values)
        if not np.isfinite(actions).all():
            step = int(np.argmin(np.isfinite(actions).all(axis=1)))
            raise DataError(f"the action of step {step} is {actions[step].tolist()}. An action must be finite")
        return actions

    def _append(self, shard: int, records: list[_Record]) -> None:
        if not records:
            return
        self.actions.append(self._actions(records))
        for r in records:
            instruction = self.instructions.setdefault(r.instruction, len(self.instructions))
            task = self.tasks.setdefault(r.task, len(self.tasks))
            self.episodes.append((shard, r.steps, instruction, task, r.stride, r.embedding))
            self.changing += r.changes
        places = np.concatenate([np.frombuffer(r.images, np.int64) for r in records]).reshape(-1, 2)
        images = np.empty(len(places), dtype=IMAGE)
        images["offset"], images["length"] = places[:, 0], places[:, 1]
        self.images.append(images)

    def _record(self, data: Buffer, start: int, stop: int, where: str) -> _Record:
        columns = self.columns
        spans = scan_example(data, start, stop, self.keys)
        kind, first, end = span_of(spans, columns.image)
        images = bytes_places(data, first, end) if kind == BYTES else array("q")
        if not images:
            raise DataError(f"the episode has no steps ({columns.image.key!r} holds no image)")
        embedding, stride = embedding_of(data, spans, columns.embedding)
        steps = len(images) // 2
        instruction, changes = instruction_of(data, spans, columns.instruction, steps)
        return _Record(
            steps=steps,
            images=images,
            values=[values_of(data, spans, feature, steps) for feature in columns.actions],
            instruction=instruction,
            task=text_of(data, spans, columns.task) if columns.task and columns.task.record_key in spans else b"",
            embedding=embedding,
            stride=stride,
            changes=changes,
            where=where,
        )

    def finish(self, shards: Shards) -> Index:
        if not self.episodes:
            reason = f". {len(self.skipped)} are skipped, the first: {self.skipped[0]}" if self.skipped else ""
            raise DataError(f"{shards.paths[0].parent} holds no readable episode{reason}")
        return Index(
            episodes=np.array(self.episodes, dtype=EPISODE),
            images=np.concatenate(self.images),
            actions=np.concatenate(self.actions),
            instructions=_decoded(self.instructions),
            tasks=_decoded(self.tasks),
            skipped=tuple(self.skipped or ()),
            changing=self.changing,
        )


def _decoded(table: Mapping[bytes, int]) -> tuple[str, ...]:
    return tuple(text.decode("utf-8", errors="replace") for text in table)


def _index_of(stored: StoredArrays) -> Index:
    values: dict[str, Any] = {**stored.arrays, **{name: tuple(stored.facts[name]) for name in _TEXTS}}
    return Index(**values, changing=int(stored.facts["changing"]), folder=stored.folder)


def _is_sound(stored: StoredArrays, sizes: Sequence[int]) -> bool:
    """Return whether a stored index has the right types and stays within files of these sizes."""
    index = _index_of(stored)
    episodes, images = index.episodes, index.images
    kinds = [(array.dtype, array.ndim) for array in (episodes, images, index.actions)]
    if kinds != [(EPISODE, 1), (IMAGE, 1), (np.dtype(np.float32), 2)] or len(images) != len(index.actions):
        return False
    if not all(isinstance(text, str) for name in _TEXTS for text in stored.facts[name]):
        return False
    steps = episodes["steps"].astype(np.int64)
    if not len(steps) or steps.min() < 1 or steps.sum() != len(images):
        return False
    limits = {"shard": len(sizes), "instruction": len(index.instructions), "task": len(index.tasks)}
    if any(episodes[name].min() < 0 or episodes[name].max() >= limit for name, limit in limits.items()):
        return False
    size = np.array(sizes)[episodes["shard"]]
    offset, limit = images["offset"], np.repeat(size, steps) - images["length"]
    last = np.cumsum(steps) - 1
    ordered = offset[last - steps + 1] <= offset[last]
    embedded = (episodes["embedding"] >= 0) & (episodes["embedding"] <= size) & np.isin(episodes["stride"], (0, 4, 5))
    return bool(((offset >= 0) & (offset <= limit)).all() and (ordered & embedded).all())
