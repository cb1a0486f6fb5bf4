"""Episodes to a LeRobot v3.0 data set that this package and lerobot read; writing may be interrupted at any time."""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rt1.actions import FloatArray
from rt1.common.files import recover, replacing, write_text
from rt1.common.folders import check_folder
from rt1.common.progress import progress
from rt1.data.lerobot.embeddings import read_embeddings, write_embeddings
from rt1.data.lerobot.metadata import (
    LeRobotSettings,
    episode_row,
    place_of,
    step_columns,
    step_schema,
    step_table,
    write_episodes,
    write_metadata,
)
from rt1.data.lerobot.schema import (
    DATA_PATH,
    EMBEDDINGS_FILE,
    EPISODES_PATH,
    INFO_FILE,
    RECORDING_FILE,
    VIDEO_PATH,
    read_columns,
    reading,
)
from rt1.data.lerobot.video import encode_video, join_videos
from rt1.data.rlds.schema import read_json
from rt1.data.rlds.writer import RecordedEpisode, check_episode, refuse_difference
from rt1.data.sources.images import decode_image

if TYPE_CHECKING:
    import pyarrow.parquet as pq

_PARTS = Path("meta/parts")  # text embeddings file by file, until the data set is complete


@dataclass(frozen=True, kw_only=True)
class _State:
    """The numbers of the next file, episode and step, and the ``task_index`` of each instruction so far."""

    file: int = 0
    episode: int = 0
    step: int = 0
    tasks: dict[str, int] = field(default_factory=dict)


class LeRobotWriter:
    """Writes one data set, file by file, over several runs of the program.

    A file appears under its name only when complete, ``meta/info.json`` last of all; until then
    :class:`~rt1.data.lerobot.reader.LeRobotSource` refuses the folder. Equal episodes give equal bytes.
    """

    def __init__(self, folder: Path | str, settings: LeRobotSettings) -> None:
        """Begin a data set in ``folder``, or take up one that was begun with the same settings.

        Raises:
            DataError: the folder holds a data set with other settings; the differing ones are named.
            SaveError: it holds files of something else.
        """
        self.folder, self.settings = Path(folder), settings
        path = self.folder / RECORDING_FILE
        if path.is_file():
            refuse_difference(path, read_json(path), settings.to_json())
        else:
            check_folder(self.folder, ours=(RECORDING_FILE,))
            write_text(path, json.dumps(settings.to_json(), indent=2) + "\n")

    def missing_episodes(self) -> range:
        """Return the numbers of the episodes still to be written."""
        return range(self._state().episode, self.settings.recording.episodes)

    def write(self, read: Callable[[int], RecordedEpisode]) -> None:
        """Write the missing episodes, showing progress, then the metadata.

        ``read`` returns an episode by its number from 0, and is called once for each missing one, in order. An episode
        that does not fit the settings raises :class:`DataError`.
        """
        state, total = self._state(), self.settings.recording.episodes
        with progress(f"write {self.settings.recording.name}", total, unit="episodes", done=state.episode) as bar:

            def counted(number: int) -> RecordedEpisode:
                bar.update(number)
                return read(number)

            while state.episode < total:
                state = self._write_file(state, counted)
            bar.update(total)
        if not (self.folder / INFO_FILE).is_file():
            self._finish(state)
        shutil.rmtree(self.folder / _PARTS, ignore_errors=True)

    def _write_file(self, state: _State, read: Callable[[int], RecordedEpisode]) -> _State:
        """Write the next data file and its companions; the episodes file comes last and marks them complete."""
        path = self._path(DATA_PATH, state)
        video, rows = self._path(VIDEO_PATH, state), self._path(EPISODES_PATH, state)
        for file in (path, video, rows):
            recover(file)
        limit = self.settings.file_megabytes << 20
        last = min(self.settings.recording.episodes, state.episode + self.settings.recording.episodes_per_shard)
        with replacing(path) as partial, _open_parquet(partial, self.settings) as sink:
            part = _Part(settings=self.settings, state=state, sink=sink, tasks=dict(state.tasks))
            while part.size < limit and state.episode + len(part.rows) < last:
                part.add(read(state.episode + len(part.rows)))
        if part.segments:
            with replacing(video) as partial:
                join_videos(part.segments, partial, fps=self.settings.fps)
        if part.embeddings:
            write_embeddings(self._embeddings_part(state.file), part.embeddings)
        write_episodes(rows, part.rows)
        episode = state.episode + len(part.rows)
        return _State(file=state.file + 1, episode=episode, step=part.next_step, tasks=part.tasks)

    def _finish(self, state: _State) -> None:
        if self.settings.recording.text_encoder is not None:
            parts = [read_embeddings(self._embeddings_part(file)) for file in range(state.file)]
            vectors = (part.vectors[row] for part in parts for row in part.rows)
            write_embeddings(self.folder / EMBEDDINGS_FILE, vectors)
        write_metadata(self.folder, self.settings, tuple(state.tasks), files=state.file, steps=state.step)

    def _state(self) -> _State:
        """Return the state after the complete files, up to the first missing one."""
        state = _State()
        for file in itertools.count():
            path = self._path(EPISODES_PATH, state)
            if not path.is_file():
                return state
            columns = read_columns(path, ("episode_index", "dataset_to_index", "tasks"))
            tasks = dict(state.tasks)
            with reading(path):
                for (sentence,) in columns["tasks"].to_pylist():
                    tasks.setdefault(sentence, len(tasks))
            episode, step = columns["episode_index"][-1].as_py() + 1, columns["dataset_to_index"][-1].as_py()
            state = _State(file=file + 1, episode=episode, step=step, tasks=tasks)
        raise AssertionError("unreachable")

    def _path(self, template: str, state: _State) -> Path:
        return self.folder / place_of(template, state.file, video_key=self.settings.image_key)

    def _embeddings_part(self, file: int) -> Path:
        return self.folder / _PARTS / f"file-{file:06d}.safetensors"


@dataclass(kw_only=True)
class _Part:
    """One data file being written, and the content of its companion files."""

    settings: LeRobotSettings
    state: _State
    sink: pq.ParquetWriter
    tasks: dict[str, int]
    rows: list[dict[str, Any]] = field(default_factory=list)
    segments: list[tuple[bytes, int]] = field(default_factory=list)
    """mp4 file and number of images of each episode of a video-mode set."""
    embeddings: list[FloatArray] = field(default_factory=list)
    size: int = 0
    """Bytes of images so far."""

    @property
    def next_step(self) -> int:
        return self.rows[-1]["dataset_to_index"] if self.rows else self.state.step

    def add(self, episode: RecordedEpisode) -> None:
        settings = self.settings
        check_episode(episode, settings.recording)
        number, task = self.state.episode + len(self.rows), self.tasks.setdefault(episode.instruction, len(self.tasks))
        columns = step_columns(episode, settings.fps, number=number, step=self.next_step, task=task)
        self.sink.write_table(step_table(episode.images, columns, settings))
        self.rows.append(episode_row(episode, columns, settings, file=self.state.file, base=self.state.step))
        if episode.text_embedding is not None:
            self.embeddings.append(episode.text_embedding)
        if settings.video is None:
            self.size += sum(map(len, episode.images))
            return
        images = [decode_image(data) for data in episode.images]
        self.segments.append((encode_video(images, fps=settings.fps, codec=settings.video), len(images)))
        self.size += len(self.segments[-1][0])


def _open_parquet(path: Path, settings: LeRobotSettings) -> pq.ParquetWriter:
    """Open a Parquet file; images are compressed already, so they are stored as they are."""
    import pyarrow.parquet as pq

    schema = step_schema(settings)
    numbers = [name for name in schema.names if name != settings.image_key]
    images = dict.fromkeys((f"{settings.image_key}.bytes", f"{settings.image_key}.path"), "none")
    compression = dict.fromkeys(numbers, "snappy") | images
    return pq.ParquetWriter(path, schema, compression=compression, use_dictionary=numbers, write_page_checksum=True)
