"""Parts of LeRobot v2.0 and v2.1: one file for each episode, and tables of JSON lines."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import numpy as np

from rt1.common.border import reading
from rt1.common.files import write_bytes, write_text
from rt1.common.json_files import parse
from rt1.data.lerobot.schema import INFO_FILE, STATS_FILE
from rt1.data.lerobot.v2 import DATA_PATH, EPISODES_FILE, TASKS_FILE, VIDEO_PATH
from rt1.data.remote.download import Part, PartFile
from rt1.data.remote.lerobot import CURE, Info, cut_steps
from rt1.data.remote.store import Store, filled
from rt1.errors import DataError

EPISODE_STATS_FILE = "meta/episodes_stats.jsonl"


def plan(store: Store, info: Info) -> Part:
    """Return the files of the part's episodes. Missing or inconsistent metadata raise :class:`DataError`."""
    start = info.episodes.start
    rows = _rows(store, EPISODES_FILE, store.read(EPISODES_FILE), info.episodes)
    with reading(store.path(EPISODES_FILE), cure=CURE):
        lengths = np.array([int(row["length"]) for row in rows], dtype=np.int64)
    if len(rows) != len(info.episodes):
        promise = f"{INFO_FILE} promises {info.total} episodes"
        raise DataError(f"{store.path(EPISODES_FILE)} has {len(rows)} of the episodes, but {promise}. {CURE}")
    copies = {TASKS_FILE: store.read(TASKS_FILE)}
    if (stats := store.read_optional(STATS_FILE)) is not None:
        copies[STATS_FILE] = stats
    if (stats := store.read_optional(EPISODE_STATS_FILE)) is not None:
        copies[EPISODE_STATS_FILE] = _lines(_rows(store, EPISODE_STATS_FILE, stats, info.episodes), start)
    copies[EPISODES_FILE] = _lines(rows, start)

    def write_metadata(folder: Path) -> None:
        for path, data in copies.items():
            write_bytes(folder / path, data)
        text = info.to_text(steps=int(lengths.sum()), data_path=DATA_PATH, video_path=VIDEO_PATH)
        write_text(folder / INFO_FILE, text)

    files = (*_data_files(store, info, lengths), *_video_files(store, info))
    return Part(format="LeRobot", episodes=info.episodes, total=info.total, files=files, write_metadata=write_metadata)


def _numbers(info: Info, episode: int) -> dict[str, int]:
    return {"episode_chunk": episode // info.chunk, "episode_index": episode}


def _data_files(store: Store, info: Info, lengths: np.ndarray[Any, np.dtype[np.int64]]) -> list[PartFile]:
    start = info.episodes.start
    path = info.path("data_path", DATA_PATH, store, **_numbers(info, start))
    first = np.cumsum(lengths) - lengths
    files = []
    for row, episode in enumerate(info.episodes):
        make = functools.partial(
            cut_steps,
            numbers=np.array([episode]),
            lengths=lengths[row : row + 1],
            shift=start,
            first_step=int(first[row]),
        )
        target = filled(DATA_PATH, info.where, **_numbers(info, row))
        files.append(PartFile(name=path(**_numbers(info, episode)), target=target, make=make))
    return files


def _video_files(store: Store, info: Info) -> list[PartFile]:
    files = []
    for key in info.video_keys:
        path = info.path("video_path", VIDEO_PATH, store, video_key=key, **_numbers(info, info.episodes.start))
        for row, episode in enumerate(info.episodes):
            target = filled(VIDEO_PATH, info.where, video_key=key, **_numbers(info, row))
            files.append(PartFile(name=path(video_key=key, **_numbers(info, episode)), target=target))
    return files


def _rows(store: Store, name: str, content: bytes, episodes: range) -> list[dict[str, Any]]:
    """Return the objects of some episodes in a file of JSON lines, in their order."""
    rows: dict[int, dict[str, Any]] = {}
    for number, line in enumerate(content.splitlines(), 1):
        if line.strip():
            where = f"{store.path(name)}, line {number},"
            row = parse(line, name=where, cure=CURE)
            with reading(where, cure=CURE):
                if (episode := int(row["episode_index"])) in episodes:
                    rows[episode] = row
    return [rows[episode] for episode in sorted(rows)]


def _lines(rows: list[dict[str, Any]], start: int) -> bytes:
    """Return a file of JSON lines with the episodes' numbers in the part."""
    shifted = ({**row, "episode_index": int(row["episode_index"]) - start} for row in rows)
    return "".join(json.dumps(row) + "\n" for row in shifted).encode()
