"""What only the files of a LeRobot folder show: gaps between timestamps, short videos, tables that disagree."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rt1.common.border import reading
from rt1.common.json_files import read_object
from rt1.data.lerobot import schema, v2
from rt1.data.lerobot.schema import EPISODE_FILES, INFO_FILE

_DATA_FILES = "data/*/[!.]*.parquet"  # without the ._NAME.parquet that macOS leaves
_MOST_FILES = 2000  # of each kind that are read, evenly spread


def file_problems(folder: Path) -> list[tuple[str, str]]:
    """Return (check, message) for what the files of a LeRobot v2 or v3 folder show.

    An unreadable file raises :class:`DataError`.
    """
    with reading(folder / INFO_FILE, cure="Copy it again"):
        fps = float(read_object(folder / INFO_FILE)["fps"])
    return [*_timestamp_gaps(folder, fps), *_short_videos(folder), *_other_tasks(folder)]


def _timestamp_gaps(folder: Path, fps: float) -> Iterator[tuple[str, str]]:
    import pyarrow.parquet as pq

    names = ("episode_index", "frame_index", "timestamp")
    gaps = []
    for path in _some(sorted(folder.glob(_DATA_FILES))):
        with reading(path, cure="Copy it again"):
            if set(names) <= set(pq.read_schema(path).names):
                columns = pq.read_table(path, columns=list(names)).to_pydict()
                gaps += _gaps(*(np.array(columns[name], dtype=np.float64) for name in names), fps=fps)
    if gaps:
        episode, step, seconds = gaps[0]
        first = f"the first is step {step} of episode {episode} ({seconds:.3g} s)"
        yield "timestamp-gaps", f"{len(gaps):,} steps are not 1/{fps:g} s after the one before, {first}"


def _gaps(
    episodes: NDArray[np.float64], steps: NDArray[np.float64], times: NDArray[np.float64], *, fps: float
) -> list[tuple[int, int, float]]:
    """Return episode, step and seconds since the step before, where these differ from 1 / fps by more than half."""
    seconds = np.diff(times)
    strange = (np.diff(episodes) == 0) & ~(np.abs(seconds * fps - 1) <= 0.5)
    return [(int(episodes[row + 1]), int(steps[row + 1]), float(seconds[row])) for row in np.flatnonzero(strange)]


def _short_videos(folder: Path) -> Iterator[tuple[str, str]]:
    import av

    expected = _expected_frames(folder)
    for path in _some(sorted(path for path in expected if path.is_file())):
        with reading(path, cure="Copy it again", also=(av.FFmpegError,)), av.open(str(path)) as container:
            frames = container.streams.video[0].frames or sum(1 for packet in container.demux(video=0) if packet.size)
        steps, is_exact = expected[path]
        if frames < steps or (is_exact and frames > steps):
            name = path.relative_to(folder)
            yield "video-frames", f"{name} has {frames} frames, its episodes have {steps} steps. Copy it again"


def _other_tasks(folder: Path) -> Iterator[tuple[str, str]]:
    """Yield that the task of the steps is none of the episode's list of tasks, as after a merge of two data sets."""
    version = v2 if (folder / v2.EPISODES_FILE).is_file() else schema
    if not (folder / version.TASKS_FILE).is_file():
        return
    tasks, episodes = version.read_tasks(folder), version.read_episodes(folder, schema.read_info(folder), None)
    names = ["episode_index", "task_index"]
    others: dict[int, str] = {}
    for path in _some(sorted(set(episodes.data_files))):
        if set(names) <= set(schema.read_schema(path).names):
            columns = schema.read_columns(path, names)
            numbers, firsts = np.unique(columns["episode_index"], return_index=True)
            for episode, index in zip(numbers.tolist(), columns["task_index"][firsts].tolist(), strict=True):
                if tasks.get(index, "").strip() and tasks[index] not in episodes.sentences.get(
                    episode, (tasks[index],)
                ):
                    others[episode] = tasks[index]
    if others:
        episode, task = next(iter(others.items()))
        pair = f"{task[:80]!r} and {episodes.sentences[episode][0][:80]!r}"
        rule = "have a task_index whose task is none of those that their table names"
        first = f"In episode {episode} they are {pair}. The first of the two is read"
        yield "other-task", f"{len(others):,} episodes {rule}. {first}"


def _expected_frames(folder: Path) -> dict[Path, tuple[int, bool]]:
    """Return the steps of each video, and whether it may hold no others (a v2 file holds one episode)."""
    import pyarrow.parquet as pq

    expected: dict[Path, tuple[int, bool]] = {}
    for path in folder.glob("videos/*/*/episode_*.mp4"):
        data = folder / "data" / path.parent.parent.name / f"{path.stem}.parquet"
        if data.is_file():
            with reading(data, cure="Copy it again"):
                expected[path] = pq.read_metadata(data).num_rows, True
    for file in sorted(folder.glob(EPISODE_FILES)):
        with reading(file, cure="Copy it again"):
            ends = ("length", "/chunk_index", "/file_index")
            names = [name for name in pq.read_schema(file).names if name.endswith(ends)]
            for key, chunk, number, length in _video_rows(pq.read_table(file, columns=names).to_pydict()):
                path = folder / f"videos/{key}/chunk-{chunk:03d}/file-{number:03d}.mp4"
                expected[path] = expected.get(path, (0, False))[0] + length, False
    return expected


def _video_rows(columns: dict[str, list[Any]]) -> Iterator[tuple[str, int, int, int]]:
    """Yield camera key, chunk, file and length of each episode of each camera."""
    for name, chunks in columns.items():
        if name.startswith("videos/") and name.endswith("/chunk_index"):
            key = name.removeprefix("videos/").removesuffix("/chunk_index")
            files = columns[f"videos/{key}/file_index"]
            for chunk, number, length in zip(chunks, files, columns["length"], strict=True):
                yield key, int(chunk), int(number), int(length)


def _some(paths: Sequence[Path]) -> Iterator[Path]:
    if not paths:
        return
    for place in np.unique(np.linspace(0, len(paths) - 1, min(len(paths), _MOST_FILES)).astype(int)).tolist():
        yield paths[place]
