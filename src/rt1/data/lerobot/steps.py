"""The steps of a LeRobot data set: actions in memory, image bytes on request."""

from __future__ import annotations

import dataclasses
import functools
import threading
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from rt1.actions import FloatArray
from rt1.data.lerobot.schema import (
    COPY_AGAIN,
    NO_TASK,
    REWARD_KEY,
    SUCCESS_KEY,
    Episodes,
    read_columns,
    read_schema,
    reading,
)
from rt1.data.sources.base import check_finite
from rt1.data.sources.sentences import sentence_of
from rt1.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

CACHE_BYTES = 128 << 20
"""Most bytes of decoded row groups kept in memory. The last group is always kept."""
_KNOWN_FOOTERS = 32
_MOST_DRIFT, _MOST_RATE_ERROR = 0.5, 0.01
"""How far the time of the last step may be off: in steps, or in the share of the episode if that is more."""


@dataclass(frozen=True, kw_only=True)
class Steps:
    """The actions of a whole data set, and what the data files say of each episode."""

    actions: FloatArray
    """float32 (all steps, A), episode by episode."""
    low: FloatArray
    """(A,) smallest value of each entry."""
    high: FloatArray
    """(A,) largest value of each entry."""
    tasks: NDArray[np.int64]
    """(E,) ``task_index`` of each episode's first step that has one, or the number of its sentence. Below 0: none."""
    changes: NDArray[np.bool_]
    """(E,) whether the instruction changes within an episode."""
    rows: NDArray[np.int64]
    """(E,) row of each episode's first step within its data file."""
    video_starts: NDArray[np.float64] = dataclasses.field(default_factory=lambda: np.empty(0))
    """(E,) time of each episode's first image on the clock of its video file, seconds. Empty in image mode."""
    rewards: FloatArray | None = None
    """float32 (all steps,), where the data set has them."""
    success: NDArray[np.bool_] | None = None
    """(E,) whether an episode succeeded, where the data set says so."""
    sentences: NDArray[np.str_] | None = None
    """The different sentences of the column of instructions, where one is read."""


@dataclass(frozen=True, kw_only=True)
class StepKeys:
    """The features of the data files to read."""

    actions: Mapping[str, int]
    """Number of entries of each feature of the action, in the order they are joined."""
    reward: bool
    """Whether there are rewards."""
    success: bool
    """Whether there are marks of success."""
    instruction: str | None = None
    """Column of text with the instruction. None: that of the ``task_index``."""

    @property
    def action_name(self) -> str:
        """The features of the action, for errors."""
        return " and ".join(map(repr, self.actions))


def read_steps(episodes: Episodes, keys: StepKeys, fps: float) -> Steps:
    """Return the columns of all steps, 4 A bytes of memory per step for the actions.

    A damaged file, rows of other episodes, another rate than ``fps``, or an action that is not finite raises
    :class:`DataError`.
    """
    lengths = episodes.lengths
    firsts, total = np.cumsum(lengths) - lengths, int(lengths.sum())
    actions = np.empty((total, sum(keys.actions.values())), np.float32)
    tasks, rows, changes = np.empty_like(lengths), np.empty_like(lengths), np.zeros(len(lengths), np.bool_)
    rewards = np.empty(total, np.float32) if keys.reward else None
    success = np.zeros(len(lengths), np.bool_) if keys.success else None
    sentences: dict[str, int] = {}
    for path, members in _by_file(episodes).items():
        numbers, values = _read_file(path, keys, sentences)
        starts, counts = _starts(path, numbers["episode_index"], members, lengths), lengths[members]
        times = values["timestamp"].astype(np.float64)
        _check_rate(path, members, (times[starts], times[starts + counts - 1]), counts, fps)
        if not np.isfinite(values["action"]).all():
            for member, row in zip(members.tolist(), starts.tolist(), strict=True):
                check_finite(values["action"][row : row + lengths[member]], f"{keys.action_name} of episode {member}")
        # Each row of the file, episode by episode, and its step in the whole data set.
        ends = np.cumsum(counts)
        row = np.repeat(starts - (ends - counts), counts) + np.arange(ends[-1])
        step = np.repeat(firsts[members] - (ends - counts), counts) + np.arange(ends[-1])
        actions[step] = values["action"][row]
        rows[members] = starts
        tasks[members], changes[members] = _first_tasks(numbers["task_index"][row], ends - counts)
        if rewards is not None:
            rewards[step] = values[REWARD_KEY][row]
        if success is not None:
            success[members] = np.logical_or.reduceat(values[SUCCESS_KEY][row] != 0, ends - counts)
    columns = np.ascontiguousarray(actions.T)  # several times faster to reduce
    return Steps(
        actions=actions,
        low=columns.min(axis=1),
        high=columns.max(axis=1),
        tasks=tasks,
        changes=changes,
        rows=rows,
        rewards=rewards,
        success=success,
        sentences=None if keys.instruction is None else np.array(list(sentences), dtype=np.str_),
    )


def _first_tasks(tasks: NDArray[np.int64], starts: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Return the first task of each episode that is not below 0, and whether another one follows it.

    Args:
        tasks: of each step, episode by episode.
        starts: first step of each episode.
    """
    places = np.where(tasks >= 0, np.arange(len(tasks)), len(tasks))
    firsts = np.minimum.reduceat(places, starts)
    numbers = tasks[np.where(firsts < len(tasks), firsts, starts)]
    changes = (tasks >= 0) & (tasks != np.repeat(numbers, np.diff(np.append(starts, len(tasks)))))
    return numbers, np.logical_or.reduceat(changes, starts)


def _by_file(episodes: Episodes) -> dict[Path, NDArray[np.int64]]:
    """Return the episodes of each data file."""
    members: dict[Path, list[int]] = {}
    for episode, path in enumerate(episodes.data_files):
        members.setdefault(path, []).append(episode)
    return {path: np.array(numbers, dtype=np.int64) for path, numbers in members.items()}


def _read_file(
    path: Path, keys: StepKeys, sentences: dict[str, int]
) -> tuple[dict[str, NDArray[np.int64]], dict[str, NDArray[Any]]]:
    """Return the whole numbers and the other values of a data file. The action has the name ``action``.

    Where the instruction is text, its number in ``sentences`` is the ``task_index``. New sentences are added there.
    """
    extra = [name for name, present in ((REWARD_KEY, keys.reward), (SUCCESS_KEY, keys.success)) if present]
    key = keys.instruction
    integers = ["episode_index", *(["task_index"] if key is None else [])]
    columns = read_columns(path, integers, ["timestamp", *keys.actions, *extra], nullable=[] if key is None else [key])
    if key is not None:
        columns["task_index"] = _numbered(path, key, columns[key], sentences)
    parts = [_vectors(path, key, columns[key], size) for key, size in keys.actions.items()]
    values = {name: _vectors(path, name, columns[name], 1)[:, 0] for name in ("timestamp", *extra)}
    return columns, {**values, "action": np.concatenate(parts, axis=1)}


def _numbered(path: Path, key: str, column: pa.ChunkedArray, sentences: dict[str, int]) -> NDArray[np.int64]:
    """Return the number of each row's text in ``sentences``, where new ones are added. An empty text has none."""
    import pyarrow as pa

    column = column.unify_dictionaries() if pa.types.is_dictionary(column.type) else column.dictionary_encode()
    kind = column.type.value_type
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
        raise DataError(f"{path}: the column {key!r} is {kind}. An instruction must be text. Name another key")
    whole = column.combine_chunks()
    texts = [sentence_of(text or "") for text in whole.dictionary.to_pylist()]
    numbers = [sentences.setdefault(text, len(sentences)) if text.strip() else NO_TASK for text in texts]
    return np.array([*numbers, NO_TASK], np.int64)[whole.indices.fill_null(len(numbers)).to_numpy()]


def _starts(
    path: Path, numbers: NDArray[np.int64], members: NDArray[np.int64], lengths: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Return the first row of each member from the episode number of each row, and check that nothing else is there."""
    starts = np.flatnonzero(np.append(True, numbers[1:] != numbers[:-1])[: len(numbers)])
    order = np.argsort(numbers[starts], kind="stable")
    counts = np.diff(np.append(starts, len(numbers)))
    if not (np.array_equal(numbers[starts][order], members) and np.array_equal(counts[order], lengths[members])):
        raise DataError(
            f"{path}: its rows are not the {int(lengths[members].sum())} steps of the episodes {members.min()}.."
            f"{members.max()} that meta/episodes promises. {COPY_AGAIN}"
        )
    return starts[order]


def _check_rate(
    path: Path,
    members: NDArray[np.int64],
    times: tuple[NDArray[np.float64], NDArray[np.float64]],
    counts: NDArray[np.int64],
    fps: float,
) -> None:
    """Raise :class:`DataError` if the times of the first and last step of episodes are not those of this rate."""
    steps = counts - 1
    with np.errstate(over="ignore", invalid="ignore"):  # times may be anything
        seconds = times[1] - times[0]
        wrong = np.abs(seconds * fps - steps) > np.maximum(_MOST_DRIFT, _MOST_RATE_ERROR * steps)
    if wrong.any():
        number = int(np.argmax(wrong))
        span = float(seconds[number])
        rate = f"{float(steps[number]) / span:.4g} steps per second" if span > 0 else "no rate"
        raise DataError(
            f"{path}: the timestamps of episode {members[number]} have {rate}, and meta/info.json has fps {fps:g}. Set "
            "fps to the rate of the recording"
        )


def _vectors(path: Path, key: str, column: pa.ChunkedArray, size: int) -> FloatArray:
    """Return a column of lists of numbers (or of numbers, as LeRobot stores one entry) as float32 (rows, size)."""
    import pyarrow as pa
    import pyarrow.compute as pc

    flat, sizes = column, np.ones(len(column))
    if hasattr(column.type, "value_type"):
        flat, sizes = column.combine_chunks().flatten(), pc.list_value_length(column).to_numpy()
    kind = flat.type
    number = pa.types.is_floating(kind) or pa.types.is_integer(kind) or pa.types.is_boolean(kind)
    if flat.null_count or (sizes != size).any() or not number:
        content = f"{column.type} with {len(flat)} values in {len(column)} rows, {flat.null_count} empty"
        raise DataError(f"{path}: the column {key!r} is {content}. It must hold {size} numbers a row. {COPY_AGAIN}")
    with np.errstate(over="ignore"):  # infinity is refused later
        return flat.to_numpy(zero_copy_only=False).astype(np.float32).reshape(len(column), size)


class StoredImages:
    """The JPEG or PNG bytes in the data files of an image-mode set. Safe to use from several threads."""

    def __init__(self, episodes: Episodes, rows: NDArray[np.int64], key: str) -> None:
        self._files, self._rows, self._key = episodes.data_files, rows, key
        self._footer = functools.lru_cache(maxsize=_KNOWN_FOOTERS)(_read_footer)
        self._groups: OrderedDict[tuple[Path, int], pa.ChunkedArray] = OrderedDict()
        self._lock = threading.Lock()
        path, schema = episodes.data_files[0], read_schema(episodes.data_files[0])
        if key not in schema.names or not str(schema.field(key).type).startswith("struct<bytes: binary"):
            raise DataError(f"{path} has no images in a column {key!r}: struct<bytes, path>. {COPY_AGAIN}")

    def read(self, episode: int, start: int, stop: int) -> list[bytes]:
        """Return the bytes of steps ``start..stop-1``. A missing image raises :class:`DataError`."""
        path = self._files[episode]
        first, last = int(self._rows[episode]) + start, int(self._rows[episode]) + stop
        with reading(path):
            metadata, bounds = self._footer(path)
        images: list[bytes] = []
        group = int(np.searchsorted(bounds, first, side="right")) - 1
        while first < last:
            begin, end = bounds[group : group + 2].tolist()
            end = min(last, end)
            images += self._column(path, group, metadata)[first - begin : end - begin].to_pylist()
            first, group = end, group + 1
        if len(images) != stop - start:
            raise DataError(f"{path} has {len(images)} images for {stop - start} steps of an episode. {COPY_AGAIN}")
        if None in images:
            step = start + images.index(None)  # type: ignore[arg-type]
            raise DataError(f"{path}: step {step} of episode {episode} has no image bytes. {COPY_AGAIN}")
        return images

    def _column(self, path: Path, group: int, metadata: pq.FileMetaData) -> pa.ChunkedArray:
        """Return the images of one row group as a pyarrow column of bytes, from the cache where possible."""
        key = (path, group)
        with self._lock:
            if key in self._groups:
                self._groups.move_to_end(key)
                return self._groups[key]
        column = _read_group(path, group, self._key, metadata)
        with self._lock:
            self._groups[key] = column
            while len(self._groups) > 1 and sum(stored.nbytes for stored in self._groups.values()) > CACHE_BYTES:
                self._groups.popitem(last=False)
        return column


def _read_footer(path: Path) -> tuple[pq.FileMetaData, NDArray[np.int64]]:
    """Return the metadata of a file, and (groups + 1,) the first row of each row group and the number of rows."""
    import pyarrow.parquet as pq

    metadata = pq.read_metadata(path)
    rows = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
    return metadata, np.concatenate([[0], np.cumsum(rows)]).astype(np.int64)


def _read_group(path: Path, group: int, key: str, metadata: pq.FileMetaData) -> pa.ChunkedArray:
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    # The loader's threads already keep the cores busy.
    with reading(path), pq.ParquetFile(path, metadata=metadata, page_checksum_verification=True) as file:
        table = file.read_row_group(group, columns=[f"{key}.bytes"], use_threads=False)
    return pc.struct_field(table[key], "bytes")


def episode_instructions(tasks: Mapping[int, str], steps: Steps, episodes: Episodes) -> tuple[tuple[str, ...], ...]:
    """Return the instructions of each episode: that of its task, which may be empty, then those of its list of tasks.

    An episode without a task has those of its list alone. An unknown number raises :class:`DataError`. Where a column
    of instructions was read, each episode has that of the column.
    """
    if steps.sentences is not None:
        texts = [*steps.sentences.tolist(), ""]  # the last one is that of NO_TASK
        return tuple((texts[number],) for number in steps.tasks.tolist())
    for number in np.unique(steps.tasks).tolist():
        episode = int(np.argmax(steps.tasks == number))
        if tasks and number >= 0 and number not in tasks:
            raise DataError(f"episode {episode} has task_index {number}. The tasks of meta are {sorted(tasks)[:12]}")
    result = []
    for episode, number in enumerate(steps.tasks.tolist()):
        listed = episodes.sentences.get(episode, ())
        if number in tasks:
            others = listed if tasks[number] in listed and not steps.changes[episode] else ()
            result.append(tuple(dict.fromkeys([tasks[number], *others])))
        else:
            result.append(listed or ("",))
    return tuple(result)
