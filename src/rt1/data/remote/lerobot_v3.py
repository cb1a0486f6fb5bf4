"""Parts of LeRobot v3.0: data files cut to some episodes, the videos that hold them, and tables that say where."""

from __future__ import annotations

import functools
import io
import itertools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rt1.common.border import reading
from rt1.common.files import write_bytes, write_text
from rt1.data.lerobot import metadata, schema
from rt1.data.remote.download import Part, PartFile
from rt1.data.remote.lerobot import CURE, Info, cut_steps, replaced
from rt1.data.remote.store import Store, filled
from rt1.data.rlds.schema import read_json
from rt1.errors import DataError

_DATA = "data"
_EMBEDDINGS = "meta/rt1_embeddings.safetensors"
_EMBEDDINGS_OF_FILE = "meta/rt1_embeddings/chunk-{chunk_index:03d}/file-{file_index:03d}.safetensors"
Pair = tuple[int, int]
"""Chunk and file number of a file."""


def plan(store: Store, info: Info) -> Part:
    """Return the files of the part's episodes. Missing or inconsistent metadata raise :class:`DataError`."""
    table, first_of_file = _episodes(store, info)
    with reading(store.path("meta/episodes"), cure=CURE):
        lengths = table["length"].to_numpy().astype(np.int64)
        groups = [_DATA, *(f"videos/{key}" for key in info.video_keys)]
        pairs = {group: _pairs(table, group) for group in groups}
    first = np.cumsum(lengths) - lengths
    columns: dict[str, Any] = {
        "episode_index": np.arange(len(table)),
        "dataset_from_index": first,
        "dataset_to_index": first + lengths,
        "meta/episodes/chunk_index": np.zeros(len(table), np.int64),
        "meta/episodes/file_index": np.zeros(len(table), np.int64),
    }
    files: list[PartFile] = []
    for group in groups:
        order = {pair: number for number, pair in enumerate(dict.fromkeys(pairs[group]))}
        rows = np.array([order[pair] for pair in pairs[group]])
        columns |= {f"{group}/chunk_index": rows // info.chunk, f"{group}/file_index": rows % info.chunk}
        field, usual = ("data_path", schema.DATA_PATH) if group == _DATA else ("video_path", schema.VIDEO_PATH)
        key = {} if group == _DATA else {"video_key": group.removeprefix("videos/")}
        path = info.path(field, usual, store, **key, **_numbers(*pairs[group][0]))
        for pair, number in order.items():
            name = path(**key, **_numbers(*pair))
            target = filled(usual, info.where, **key, **_numbers(*divmod(number, info.chunk)))
            if group != _DATA:
                files.append(PartFile(name=name, target=target))
                continue
            members = np.flatnonzero(rows == number)
            make = functools.partial(
                cut_steps,
                numbers=members + info.episodes.start,
                lengths=lengths[members],
                shift=info.episodes.start,
                first_step=int(first[members[0]]),
            )
            files.append(PartFile(name=name, target=target, make=make))
    offsets = [info.episodes.start + row - first_of_file[pair] for row, pair in enumerate(pairs[_DATA])]
    write_metadata = functools.partial(
        _write_metadata,
        info=info,
        table=replaced(table, columns),
        steps=int(lengths.sum()),
        copies=_copies(store, info, pairs[_DATA], offsets),
    )
    return Part(format="LeRobot", episodes=info.episodes, total=info.total, files=files, write_metadata=write_metadata)


def _episodes(store: Store, info: Info) -> tuple[Any, dict[Pair, int]]:
    """Return the rows of the part's episodes, and the first episode of each data file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    tables: list[Any] = []
    first_of_file: dict[Pair, int] = {}
    rows = 0
    for number in itertools.count():
        chunk, file = divmod(number, info.chunk)
        name = schema.EPISODES_PATH.format(chunk_index=chunk, file_index=file)
        content = store.read_optional(name)
        if content is None:
            episodes = f"{info.episodes.start}..{info.episodes.stop - 1}"
            raise DataError(
                f"{store.path(name)} does not exist, and only {rows} of the episodes {episodes} are described"
            )
        with reading(store.path(name), cure=CURE, also=(pa.ArrowException,)):
            table = pq.read_table(io.BytesIO(content), page_checksum_verification=True)
            episodes_of_table = table["episode_index"].to_numpy()
            for episode, pair in zip(episodes_of_table.tolist(), _pairs(table, _DATA), strict=True):
                first_of_file[pair] = min(episode, first_of_file.get(pair, episode))
            mask = (episodes_of_table >= info.episodes.start) & (episodes_of_table < info.episodes.stop)
            tables.append(table.filter(pa.array(mask)))
            rows += int(mask.sum())
        if rows >= len(info.episodes):
            break
    with reading(store.path("meta/episodes"), cure=CURE, also=(pa.ArrowException,)):
        table = pa.concat_tables(tables, promote_options="permissive").sort_by("episode_index")
        if table["episode_index"].to_pylist() != list(info.episodes):
            raise ValueError("an episode has two rows")
    return table, first_of_file


def _numbers(chunk: int, file: int) -> dict[str, int]:
    return {"chunk_index": chunk, "file_index": file}


def _pairs(table: Any, group: str) -> list[Pair]:  # noqa: ANN401 (pyarrow has no types)
    """Return chunk and file number of each episode."""
    columns = [table[f"{group}/{name}"].to_numpy().astype(np.int64).tolist() for name in ("chunk_index", "file_index")]
    return list(zip(*columns, strict=True))


def _copies(store: Store, info: Info, pairs: list[Pair], offsets: list[int]) -> dict[str, bytes]:
    """Return the content of the files that are copied, text embeddings cut to the part."""
    copies = {schema.TASKS_FILE: store.read(schema.TASKS_FILE)}
    for name in (schema.STATS_FILE, schema.RT1_FILE):
        if (data := store.read_optional(name)) is not None:
            copies[name] = data
    embeddings = _read_embeddings(store, info, pairs, offsets) if schema.RT1_FILE in copies else None
    if embeddings is not None:
        copies[_EMBEDDINGS] = embeddings
    return copies


def _read_embeddings(store: Store, info: Info, pairs: list[Pair], offsets: list[int]) -> bytes | None:
    """Return the text embeddings of the episodes as one file. They are stored as one, or as one for each data file."""
    from safetensors import SafetensorError
    from safetensors.numpy import load, save

    vectors: list[NDArray[np.float32]] = []
    contents: dict[str, Mapping[str, NDArray[Any]] | None] = {}
    whole = store.exists(_EMBEDDINGS)
    for episode, pair, offset in zip(info.episodes, pairs, offsets, strict=True):
        name = _EMBEDDINGS if whole else _EMBEDDINGS_OF_FILE.format(**_numbers(*pair))
        with reading(store.path(name), cure=CURE, also=(SafetensorError,)):
            if name not in contents:
                data = store.read_optional(name)
                contents[name] = None if data is None else load(data)
            if (tensors := contents[name]) is None:
                return None
            vectors.append(tensors["vectors"][tensors["rows"][episode if whole else offset]])
    distinct, rows = np.unique(np.stack(vectors), axis=0, return_inverse=True)
    return save({"vectors": distinct, "rows": rows.reshape(-1).astype(np.int64)})


def _write_metadata(folder: Path, *, info: Info, table: Any, steps: int, copies: Mapping[str, bytes]) -> None:  # noqa: ANN401
    for path, data in copies.items():
        write_bytes(folder / path, data)
    episodes = folder / schema.EPISODES_PATH.format(chunk_index=0, file_index=0)
    metadata.write_table(episodes, table)
    complete = [
        key
        for key in info.fields["features"]
        if all(f"stats/{key}/{name}" in table.schema.names for name in metadata.STATISTICS)
    ]
    if complete:  # else those of the whole data set stay
        stats = read_json(folder / schema.STATS_FILE) if schema.STATS_FILE in copies else {}
        for key, values in metadata.total_stats([episodes], complete).items():
            stats[key] = {name: array.tolist() for name, array in values.items()}
        write_text(folder / schema.STATS_FILE, json.dumps(stats, indent=2) + "\n")
    text = info.to_text(steps=steps, data_path=schema.DATA_PATH, video_path=schema.VIDEO_PATH)
    write_text(folder / schema.INFO_FILE, text)
