"""The metadata of LeRobot v2.0 and v2.1: one file for each episode, and tables of JSON lines."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from rt1.common.json_files import check_size, parse
from rt1.data.lerobot.schema import (
    COPY_AGAIN,
    Episodes,
    Info,
    check_lengths,
    existing_files,
    reading,
    sentences_of_episodes,
)
from rt1.errors import DataError

EPISODES_FILE, TASKS_FILE = "meta/episodes.jsonl", "meta/tasks.jsonl"
DATA_PATH = "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet"
VIDEO_PATH = "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4"


def read_episodes(folder: Path, info: Info, video_key: str | None) -> Episodes:
    """Return all episodes. ``video_key`` is the key of the images in video mode, else None.

    A missing file, or numbers or lengths that are inconsistent, raise :class:`DataError`.
    """
    path = folder / EPISODES_FILE
    with reading(path):
        rows = sorted(
            ((int(row["episode_index"]), int(row["length"]), row.get("tasks")) for row in _json_lines(path)),
            key=lambda row: row[0],
        )
        numbers, lengths = np.array([row[:2] for row in rows], dtype=np.int64).reshape(-1, 2).T
    check_lengths(folder, info, numbers, lengths)
    places = [(number // info.chunk_episodes, number) for number, *_ in rows]
    videos = (
        existing_files(folder, (info.video_path, VIDEO_PATH), places, video_key=video_key)
        if video_key is not None
        else []
    )
    return Episodes(
        lengths=lengths,
        data_files=tuple(existing_files(folder, (info.data_path, DATA_PATH), places)),
        video_files=tuple(videos),
        video_starts=np.zeros(len(videos)),
        video_stops=lengths[: len(videos)] / info.fps,
        tasks=("",) * len(lengths),
        sentences=sentences_of_episodes(texts for *_, texts in rows),
    )


def read_tasks(folder: Path) -> dict[int, str]:
    """Return the instructions by ``task_index``. They may be empty."""
    path = folder / TASKS_FILE
    with reading(path):
        return {int(row["task_index"]): str(row["task"] or "") for row in _json_lines(path)}


def _json_lines(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the objects of a file of JSON lines."""
    check_size(path, cure=COPY_AGAIN)
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            row = parse(line, name=f"{path}, line {number},", cure=COPY_AGAIN)
            if not isinstance(row, dict):
                raise DataError(f"{path}, line {number}, is not an object. {COPY_AGAIN}")
            yield row
