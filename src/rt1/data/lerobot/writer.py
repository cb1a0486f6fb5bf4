"""Episodes to a LeRobot v3.0 data set that this package and lerobot read. Writing may be interrupted at any time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rt1.actions import FloatArray
from rt1.common.files import recover, replacing
from rt1.common.folders import check_folder
from rt1.common.progress import progress
from rt1.data.lerobot import metadata, schema
from rt1.data.lerobot.video import encode_video, join_videos
from rt1.data.rlds.schema import read_json
from rt1.data.rlds.writer import RecordedEpisode, check_episode, refuse_difference
from rt1.data.sources.images import decode_image


@dataclass(frozen=True, kw_only=True)
class _State:
    """The numbers of the next file, episode and step, and the ``task_index`` of each instruction so far."""

    file: int = 0
    episode: int = 0
    step: int = 0
    tasks: dict[str, int] = field(default_factory=dict)


class LeRobotWriter:
    """Writes one data set, file by file, over several runs of the program.

    A file appears under its name only when complete, ``meta/info.json`` last of all. Until then
    :class:`~rt1.data.lerobot.reader.LeRobotSource` refuses the folder. Equal episodes give equal bytes.
    """

    def __init__(self, folder: Path | str, settings: metadata.LeRobotSettings) -> None:
        """Begin a data set in ``folder``, or take up one that was begun with the same settings.

        Raises:
            DataError: the folder holds a data set with other settings. The differing ones are named.
            SaveError: it holds files of something else.
        """
        self.folder, self.settings = Path(folder), settings
        path = self.folder / schema.RECORDING_FILE
        if path.is_file():
            refuse_difference(path, read_json(path), settings.to_json())
        else:
            check_folder(self.folder, ours=(schema.RECORDING_FILE,))
            metadata.write_json(path, settings.to_json())

    def missing_episodes(self) -> range:
        """Return the numbers of the episodes still to be written."""
        return range(self._state().episode, self.settings.recording.episodes)

    def write(self, read: Callable[[int], RecordedEpisode]) -> None:
        """Write the missing episodes, showing progress, then the metadata.

        ``read`` returns an episode by its number from 0, and is called once for each missing one, in order. An episode
        that does not fit the settings raises :class:`DataError`.
        """
        state, recording = self._state(), self.settings.recording
        with progress(f"write {recording.name}", recording.episodes, unit="episodes", done=state.episode) as bar:

            def counted(number: int) -> RecordedEpisode:
                bar.update(number)
                return read(number)

            while state.episode < recording.episodes:
                state = self._write_file(state, counted)
            bar.update(recording.episodes)
        if not (self.folder / schema.INFO_FILE).is_file():
            metadata.write_metadata(self.folder, self.settings, tuple(state.tasks), files=state.file, steps=state.step)

    def _write_file(self, state: _State, read: Callable[[int], RecordedEpisode]) -> _State:
        """Write the next data file and its companions. The episodes file comes last and marks them complete."""
        import pyarrow as pa

        settings, recording = self.settings, self.settings.recording
        templates = (schema.DATA_PATH, schema.VIDEO_PATH, schema.EMBEDDINGS_PATH, schema.EPISODES_PATH)
        data, video, vectors, table = paths = [self._path(template, state.file) for template in templates]
        for path in paths:
            recover(path)
        rows: list[dict[str, Any]] = []
        videos: list[tuple[bytes, int]] = []
        embeddings: list[FloatArray] = []
        size, step, tasks = 0, state.step, dict(state.tasks)
        last = min(recording.episodes, state.episode + recording.episodes_per_shard)
        with replacing(data) as partial, metadata.open_steps(partial, settings) as sink:
            while size < settings.file_megabytes << 20 and (number := state.episode + len(rows)) < last:
                episode = read(number)
                check_episode(episode, recording)
                task = tasks.setdefault(episode.instruction, len(tasks))
                columns = metadata.step_columns(episode, settings, number=number, step=step, task=task)
                sink.write_table(metadata.step_table(episode.images, columns, sink.schema))
                rows.append(metadata.episode_row(episode, columns, settings, file=state.file, base=state.step))
                step += len(episode.images)
                if episode.text_embedding is not None:
                    embeddings.append(episode.text_embedding)
                if settings.video is not None:
                    images = [decode_image(image) for image in episode.images]
                    videos.append((encode_video(images, fps=settings.fps, codec=settings.video), len(images)))
                size += len(videos[-1][0]) if videos else sum(map(len, episode.images))
        if videos:
            with replacing(video) as partial:
                join_videos(videos, partial, fps=settings.fps)
        if embeddings:
            schema.write_embeddings(vectors, embeddings)
        metadata.write_table(table, pa.Table.from_pylist(rows))
        return _State(file=state.file + 1, episode=state.episode + len(rows), step=step, tasks=tasks)

    def _state(self) -> _State:
        """Return the state after the complete files, up to the first missing one."""
        state = _State()
        while (path := self._path(schema.EPISODES_PATH, state.file)).is_file():
            columns = schema.read_columns(path, ["episode_index", "dataset_to_index"], ["tasks"])
            tasks = dict(state.tasks)
            with schema.reading(path):
                for (sentence,) in columns["tasks"].to_pylist():
                    tasks.setdefault(sentence, len(tasks))
            episode, step = int(columns["episode_index"][-1]) + 1, int(columns["dataset_to_index"][-1])
            state = _State(file=state.file + 1, episode=episode, step=step, tasks=tasks)
        return state

    def _path(self, template: str, file: int) -> Path:
        return self.folder / metadata.place_of(template, file, video_key=self.settings.image_key)
