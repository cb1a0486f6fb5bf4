"""The steps of a LeRobot data set: actions in memory, image bytes on request."""

from __future__ import annotations

import functools
import threading
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from rt1.actions import FloatArray
from rt1.data.lerobot.schema import COPY_AGAIN, Episodes, read_columns, read_schema, reading
from rt1.data.sources.base import check_finite
from rt1.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

CACHE_BYTES = 128 << 20
"""Most bytes of decoded row groups kept in memory. The last group is always kept."""
_KNOWN_FOOTERS = 32


@dataclass(frozen=True, kw_only=True)
class Steps:
    """The actions of a whole data set, and what the data files say of each episode."""

    actions: list[FloatArray]
    """float32 (S, A) of each episode."""
    tasks: NDArray[np.int64]
    """(E,) ``task_index`` of each episode's first step."""
    changing: int
    """Number of episodes that change their ``task_index``."""
    rows: NDArray[np.int64]
    """(E,) row of each episode's first step within its data file."""


def read_steps(episodes: Episodes, action_key: str, size: int) -> Steps:
    """Return the actions of every step, 4 A bytes of memory per step, and the task numbers.

    A damaged file, rows of other episodes, or an action that is not finite raises :class:`DataError`.
    """
    actions: list[FloatArray] = [np.empty(0, np.float32)] * len(episodes.lengths)
    tasks, rows = np.empty_like(episodes.lengths), np.empty_like(episodes.lengths)
    changing = 0
    for path, members in _by_file(episodes).items():
        columns = read_columns(path, ["episode_index", "task_index"], [action_key])
        lengths = episodes.lengths[members]
        numbers, task_indices = columns["episode_index"], columns["task_index"]
        if len(numbers) != lengths.sum() or not np.array_equal(numbers, np.repeat(members, lengths)):
            raise DataError(
                f"{path}: its rows are not the {int(lengths.sum())} steps of the episodes {members.min()}.."
                f"{members.max()} that meta/episodes promises; {COPY_AGAIN}"
            )
        values = _vectors(path, action_key, columns[action_key], size)
        rows[members] = np.cumsum(lengths) - lengths
        tasks[members] = task_indices[rows[members]]
        for member, row, length in zip(members, rows[members], lengths, strict=True):
            actions[member] = values[row : row + length]
            check_finite(actions[member], f"{action_key!r} of episode {member}")
            changing += bool((task_indices[row : row + length] != tasks[member]).any())
    return Steps(actions=actions, tasks=tasks, changing=changing, rows=rows)


def _by_file(episodes: Episodes) -> dict[Path, NDArray[np.int64]]:
    """Return the episodes of each data file in the order of their rows."""
    members: dict[Path, list[int]] = {}
    for episode in np.argsort(episodes.first, kind="stable").tolist():
        members.setdefault(episodes.data_files[episode], []).append(episode)
    return {path: np.array(numbers, dtype=np.int64) for path, numbers in members.items()}


def _vectors(path: Path, key: str, column: pa.ChunkedArray, size: int) -> FloatArray:
    """Return a column of float lists (or of floats, as LeRobot stores vectors of one entry) as (rows, size)."""
    import pyarrow.compute as pc

    flat, sizes = column, np.ones(len(column))
    if hasattr(column.type, "value_type"):
        flat, sizes = column.combine_chunks().flatten(), pc.list_value_length(column).to_numpy()
    if flat.null_count or (sizes != size).any() or str(flat.type) not in ("float", "double"):
        content = f"{column.type} with {len(flat)} values in {len(column)} rows, {flat.null_count} empty"
        raise DataError(f"{path}: the column {key!r} is {content}; it must hold {size} floats a row; {COPY_AGAIN}")
    with np.errstate(over="ignore"):  # infinity is refused later
        return flat.to_numpy().astype(np.float32).reshape(len(column), size)


class StoredImages:
    """The JPEG or PNG bytes in the data files of an image-mode set. Safe to use from several threads."""

    def __init__(self, episodes: Episodes, rows: NDArray[np.int64], key: str) -> None:
        self._files, self._rows, self._key = episodes.data_files, rows, key
        self._footer = functools.lru_cache(maxsize=_KNOWN_FOOTERS)(_read_footer)
        self._groups: OrderedDict[tuple[Path, int], pa.ChunkedArray] = OrderedDict()
        self._lock = threading.Lock()
        path, schema = episodes.data_files[0], read_schema(episodes.data_files[0])
        if key not in schema.names or not str(schema.field(key).type).startswith("struct<bytes: binary"):
            raise DataError(f"{path} has no images in a column {key!r}: struct<bytes, path>; {COPY_AGAIN}")

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
            raise DataError(f"{path} has {len(images)} images for {stop - start} steps of an episode; {COPY_AGAIN}")
        if None in images:
            step = start + images.index(None)  # type: ignore[arg-type]
            raise DataError(f"{path}: step {step} of episode {episode} has no image bytes; {COPY_AGAIN}")
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


def instructions(tasks: Mapping[int, str], numbers: NDArray[np.int64]) -> tuple[str, ...]:
    """Return the instruction of each episode. An unknown number raises :class:`DataError`."""
    unknown = sorted(set(numbers.tolist()) - set(tasks))
    if unknown:
        episode = int(np.argmax(numbers == unknown[0]))
        raise DataError(f"episode {episode} has task_index {unknown[0]}; meta/tasks.parquet has {sorted(tasks)[:12]}")
    return tuple(tasks[number] for number in numbers.tolist())
