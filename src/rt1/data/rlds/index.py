"""The index of an RLDS split, built in one pass over the shards: reading a step is then one disk read."""

from __future__ import annotations

import hashlib
import io
import json
import logging
import warnings
from array import array
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rt1.actions import FloatArray
from rt1.common.border import DAMAGE, reading
from rt1.common.crc32c import masked_crc32c
from rt1.common.files import replacing, user_cache
from rt1.common.first_look import stamp_of
from rt1.common.json_files import read_object
from rt1.common.protobuf import Buffer
from rt1.data.rlds.columns import Columns, embedding_of, span_of, text_of, values_of
from rt1.data.rlds.schema import Shards
from rt1.data.rlds.tfrecord import BYTES, FRAME_START, bytes_places, map_file, scan_example, scan_records
from rt1.errors import DataError

_log = logging.getLogger(__name__)

FORMAT = 1
_CURE = "record it again, or pass skip_corrupt=True to leave such episodes out"
IMAGE = np.dtype([("offset", "<i8"), ("length", "<u4")])
_ARRAYS = ("episodes", "images", "actions")
EPISODE = np.dtype(
    [(name, "<i4") for name in ("shard", "steps", "instruction", "task", "stride")] + [("embedding", "<i8")]
)
"""``embedding``: file offset of the text embedding; ``stride``: its bytes per value, 0 if there is none."""


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
    folder: Path | None = None
    """Folder of the index and other files made from the same data; None if nothing can be written."""


def load_or_build(
    folders: Sequence[Path], settings: Mapping[str, Any], shards: Shards, build: Callable[[], Index]
) -> Index:
    """Return the stored index, or build it and store it in the first of ``folders`` that is writable.

    A stored index is used if it was built with the same ``settings``, and no shard has another size or time of change.
    If no folder is writable, a warning says so.
    """
    key = {"format": FORMAT, **settings, "shards": [[path.name, *stamp_of(path)] for path in shards.paths]}
    for folder in folders:
        stored = _load(folder, key)
        if stored is not None:
            return stored
    index = build()
    problems: list[str] = []
    for folder in folders:
        try:
            _save(index, folder, key)
        except OSError as error:  # a read-only folder, or another process storing the same index just now
            problems.append(str(error))
        else:
            return replace(index, folder=folder)
    warnings.warn(f"the index cannot be kept and is made at every start: {'; '.join(problems)}", stacklevel=2)
    return index


def settings_hash(settings: Mapping[str, Any]) -> str:
    """Return a hash of the settings, 12 hexadecimal digits."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]


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
            f"{shards.missing[0]}; download it, or pass skip_corrupt=True to read the others"
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
                with reading(where, cure="write the record again"):
                    records.append(self._record(data, start, stop, where))
            except DataError as error:
                self.note(f"{error}; {_CURE}")
        for message in corrupt or ():
            self.note(message)
        if promised not in (None, count) and not corrupt:
            self.note(f"{path}: {count} episodes, but dataset_info.json promises {promised}; download it again")
        try:
            self._append(number, records)
        except DataError:  # one by one, to find the records with an error
            for record in records:
                try:
                    self._append(number, [record])
                except DataError as error:
                    self.note(f"{record.where}: {error}; {_CURE}")

    def _actions(self, records: list[_Record]) -> FloatArray:
        values = [
            np.concatenate([record.values[i] for record in records]).reshape(-1, feature.width)
            for i, feature in enumerate(self.columns.actions)
        ]
        with np.errstate(over="ignore", invalid="ignore"):  # values beyond float32 become infinite, refused below
            actions = self.columns.join(values)
        if not np.isfinite(actions).all():
            step = int(np.argmin(np.isfinite(actions).all(axis=1)))
            raise DataError(f"the action of step {step} is {actions[step].tolist()}; an action must be finite")
        return actions

    def _append(self, shard: int, records: list[_Record]) -> None:
        if not records:
            return
        self.actions.append(self._actions(records))
        for r in records:
            instruction = self.instructions.setdefault(r.instruction, len(self.instructions))
            task = self.tasks.setdefault(r.task, len(self.tasks))
            self.episodes.append((shard, r.steps, instruction, task, r.stride, r.embedding))
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
        instruction = text_of(data, spans, columns.instruction)
        steps = len(images) // 2
        return _Record(
            steps=steps,
            images=images,
            values=[values_of(data, spans, feature, steps) for feature in columns.actions],
            instruction=instruction,
            task=text_of(data, spans, columns.task) if columns.task and columns.task.record_key in spans else b"",
            embedding=embedding,
            stride=stride,
            where=where,
        )

    def finish(self, shards: Shards) -> Index:
        if not self.episodes:
            reason = f"; {len(self.skipped)} skipped, the first: {self.skipped[0]}" if self.skipped else ""
            raise DataError(f"{shards.paths[0].parent} holds no readable episode{reason}")
        return Index(
            episodes=np.array(self.episodes, dtype=EPISODE),
            images=np.concatenate(self.images),
            actions=np.concatenate(self.actions),
            instructions=_decoded(self.instructions),
            tasks=_decoded(self.tasks),
            skipped=tuple(self.skipped or ()),
        )


def _decoded(table: Mapping[bytes, int]) -> tuple[str, ...]:
    return tuple(text.decode("utf-8", errors="replace") for text in table)


def _save(index: Index, folder: Path, key: Mapping[str, Any]) -> None:
    tables = {"instructions": index.instructions, "tasks": index.tasks, "skipped": index.skipped}
    counts = [len(index.episodes), *index.actions.shape]
    with replacing(folder, holding=("index.json", "*.npy", "statistics-*.json")) as beside:
        beside.mkdir(parents=True)
        for name in _ARRAYS:
            np.save(beside / f"{name}.npy", np.ascontiguousarray(getattr(index, name)), allow_pickle=False)
        checksums = {name: _file_checksum(beside / f"{name}.npy") for name in _ARRAYS}
        content = {"key": key, "counts": counts, "checksums": checksums, **tables}
        described = {"content": content, "checksum": masked_crc32c(json.dumps(content).encode())}
        (beside / "index.json").write_text(json.dumps(described), encoding="utf-8")


def _file_checksum(path: Path) -> int:
    return masked_crc32c(memoryview(map_file(path)))


def _load(folder: Path, key: Mapping[str, Any]) -> Index | None:
    """Return the stored index, or None if it is missing, damaged, or made from other files or settings."""
    if not (folder / "index.json").is_file():
        return None
    try:
        described = read_object(folder / "index.json")
        stored = described["content"]
        if stored["key"] != key or masked_crc32c(json.dumps(stored).encode()) != described["checksum"]:
            return None
        if any(_file_checksum(folder / f"{name}.npy") != stored["checksums"][name] for name in _ARRAYS):
            return None
        episodes, steps, width = map(int, stored["counts"])
        index = Index(
            episodes=_array(folder / "episodes.npy", EPISODE, (episodes,)),
            images=_array(folder / "images.npy", IMAGE, (steps,)),
            actions=_array(folder / "actions.npy", np.dtype(np.float32), (steps, width)),
            instructions=_texts(stored["instructions"]),
            tasks=_texts(stored["tasks"]),
            skipped=_texts(stored["skipped"]),
            folder=folder,
        )
        return index if _is_sound(index, [size for _, size, *_ in key["shards"]]) else None
    except DAMAGE:
        return None  # damaged: it is built again


def _array(path: Path, dtype: np.dtype[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    """Return the memory-mapped array of a file, whose header must be what numpy writes. It is never parsed."""
    header = io.BytesIO()
    described = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(header, described)
    data, start = map_file(path), len(header.getvalue())
    if data[:start] != header.getvalue():
        raise ValueError(f"{path} is not an array of {dtype} {shape}")
    return np.frombuffer(data, dtype, offset=start).reshape(shape)


def _texts(texts: Sequence[object]) -> tuple[str, ...]:
    if not all(isinstance(text, str) for text in texts):
        raise TypeError("the index holds something else than text")
    return tuple(map(str, texts))


def _is_sound(index: Index, sizes: Sequence[int]) -> bool:
    """Return whether an index stays within files of these sizes: its checksums may have been forged."""
    episodes, images = index.episodes, index.images
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


def cache_folder() -> Path:
    """Return the folder for indexes of read-only data, in ``$XDG_CACHE_HOME`` or ``~/.cache``."""
    return user_cache() / "index"
