"""LeRobot v3.0 data sets as an episode source, read in place without lerobot."""

from __future__ import annotations

import dataclasses
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rt1.actions import ActionSpec, Continuous, FloatArray
from rt1.common.border import DAMAGE, describe, reading
from rt1.data.lerobot import schema
from rt1.data.lerobot.steps import StoredImages, instructions, read_steps
from rt1.data.lerobot.video import VideoImages
from rt1.data.rlds.schema import read_json, read_recorder_notes
from rt1.data.sources.base import check_steps
from rt1.data.sources.images import decode_image, encode_png
from rt1.data.statistics import spec_between
from rt1.errors import DataError


class LeRobotSource:
    """Episodes of a LeRobot v3.0 folder, an :class:`~rt1.data.sources.base.EpisodeSource`.

    Opening reads the tables and the actions of all steps into memory, 4 A bytes per step. Images stay in the files.
    In image mode a request reads row groups (one per episode from LeRobot's recorder and ours) and caches a few. In
    video mode it seeks and decodes. Needs the extra ``lerobot``: pyarrow and, for videos, av.
    """

    def __init__(
        self,
        folder: Path | str,
        *,
        image_key: str | None = None,
        action_key: str = "action",
        action_spec: ActionSpec | None = None,
        name: str | None = None,
    ) -> None:
        """Open a data set.

        Args:
            folder: the folder that holds ``meta/info.json``.
            image_key: feature of the images. None: as noted by our writer, or the only one.
            action_key: feature of the action, a float vector.
            action_spec: dimensions and bounds of the action. None: as noted by our writer, else one continuous part
                with the minima and maxima of ``meta/stats.json``.
            name: name for tables and errors, default as noted by our writer, else the folder's.

        Raises:
            DataError: another version of the format, an unknown feature, a missing or damaged file, or an unusable
                episode.
        """
        self.folder = Path(folder)
        with reading(self.folder, cure=schema.COPY_AGAIN):
            self._open(image_key, action_key, action_spec, name)

    def _open(self, image_key: str | None, action_key: str, action_spec: ActionSpec | None, name: str | None) -> None:
        info = schema.read_info(self.folder)
        notes = read_recorder_notes(self.folder / schema.RT1_FILE, name=str, image_key=str)
        self.image_key = info.image_key(image_key or notes.image_key)
        size = info.action_size(action_key)
        spec = action_spec or notes.action_spec
        if spec is not None and spec.size != size:
            names = ", ".join(spec.dimension_names)
            raise DataError(f"{action_key!r} has {size} entries, the action spec {spec.size} dimensions ({names})")
        in_video = info.features[self.image_key]["dtype"] == "video"
        episodes = schema.read_episodes(self.folder, info, self.image_key if in_video else None)
        steps = read_steps(episodes, action_key, size)
        self.name = name or notes.name or self.folder.resolve().name
        if steps.changing:
            message = f"{steps.changing} episodes change their instruction; the first one stands for all steps"
            warnings.warn(f"{self.name}: {message}", stacklevel=3)
        self.action_spec = spec or _spec_of_stats(self.folder, info, action_key, size)
        self.lengths: NDArray[np.int64] = episodes.lengths
        self.text_encoder = notes.text_encoder
        self.details: dict[str, Any] = {"control_rate": info.fps, **notes.details}
        self._instructions = instructions(schema.read_tasks(self.folder), steps.tasks)
        self._tasks, self._actions = episodes.tasks, steps.actions
        self._embeddings = schema.read_embeddings(self.folder, episodes=len(self.lengths))
        if self._embeddings is None and notes.text_encoder is not None:
            raise DataError(f"{self.folder / schema.EMBEDDING_FOLDER} is missing; {schema.COPY_AGAIN}")
        self._images = (
            VideoImages(episodes, info.fps) if in_video else StoredImages(episodes, steps.rows, self.image_key)
        )

    def instruction(self, episode: int) -> str:
        check_steps(self, episode)
        return self._instructions[episode]

    def task(self, episode: int) -> str:
        """Return the task name noted by our writer, else an empty string."""
        check_steps(self, episode)
        return self._tasks[episode]

    def text_embedding(self, episode: int) -> FloatArray | None:
        """Return the text embedding stored by our writer, float32 (E,), else None."""
        check_steps(self, episode)
        return None if self._embeddings is None else self._embeddings[episode].copy()

    def encoded_images(self, episode: int, start: int, stop: int) -> list[bytes]:
        """Return the JPEG or PNG bytes of steps ``start..stop-1``. Images of a video are encoded as PNG."""
        check_steps(self, episode, start, stop)
        if isinstance(self._images, StoredImages):
            return self._images.read(episode, start, stop)
        return [encode_png(image) for image in self._images.read(episode, start, stop)]

    def images(self, episode: int, start: int, stop: int) -> list[NDArray[np.uint8]]:
        """Return the images of steps ``start..stop-1``, uint8 RGB (H, W, 3), 0..255."""
        check_steps(self, episode, start, stop)
        if isinstance(self._images, VideoImages):
            return self._images.read(episode, start, stop)
        return [decode_image(data) for data in self._images.read(episode, start, stop)]

    def actions(self, episode: int, start: int, stop: int) -> FloatArray:
        check_steps(self, episode, start, stop)
        return self._actions[episode][start:stop].copy()


def _spec_of_stats(folder: Path, info: schema.Info, key: str, size: int) -> ActionSpec:
    """Return a spec of one part with the bounds of ``stats.json`` and the dimension names of ``info.json``."""
    path = folder / schema.STATS_FILE
    try:
        stats = read_json(path)[key]
        low, high = (np.array(stats[name], dtype=np.float64).reshape(size) for name in ("min", "max"))
        spec = spec_between(low, high, parts={key: size})
    except DAMAGE as error:
        cure = "pass action_spec, see rt1.data.statistics.spec_between"
        raise DataError(f"{path} has no usable min and max of {key!r} ({describe(error)}); {cure}") from error
    names = info.features[key].get("names")
    if not isinstance(names, list) or len(set(map(str, names))) != size:
        return spec
    part = spec.parts[0]
    assert isinstance(part, Continuous)
    return dataclasses.replace(spec, parts=(dataclasses.replace(part, labels=tuple(map(str, names))),))
