"""LeRobot data sets as an episode source, read in place without lerobot."""

from __future__ import annotations

import dataclasses
import hashlib
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rt1.actions import ActionSpec, Continuous, FloatArray
from rt1.common.border import DAMAGE, reading
from rt1.data.lerobot import schema, v2
from rt1.data.lerobot.steps import StepKeys, Steps, StoredImages, episode_instructions, read_steps
from rt1.data.lerobot.video import VideoImages, starts_in_files
from rt1.data.rlds.schema import read_json, read_recorder_notes
from rt1.data.sources.base import Outcome, check_steps
from rt1.data.sources.images import decode_image, encode_png
from rt1.data.statistics import spec_between
from rt1.data.stored_arrays import StoredArrays, index_folders, load_or_make
from rt1.errors import DataError, RT1Error

_ROUNDING = 1e-6
"""Relative difference between the bounds of a file and values of float32 that does not count."""
FEW_FILES = 64
"""Up to this many files are read at every opening."""
_FORMAT = 2  # of the stored columns

MapActions = Callable[[FloatArray], FloatArray]
"""Function from the actions of a whole episode as stored, float32 (S, n), to float32 (S, A)."""


class LeRobotSource:
    """Episodes of a LeRobot folder (v2.0, v2.1, v3.0), an :class:`~rt1.data.sources.base.EpisodeSource`.

    Opening reads the tables and the actions of all steps into memory, 4 A bytes per step. Images stay in the files.
    In image mode a request reads row groups (one per episode from LeRobot's recorder and ours) and caches a few. In
    video mode it seeks and decodes. What was read from more than 64 files is stored in ``.rt1-index`` of the folder.
    Needs the extra ``lerobot``: pyarrow and, for videos, av.
    """

    def __init__(
        self,
        folder: Path | str,
        *,
        image_key: str | None = None,
        action_key: str | Sequence[str] = "action",
        instruction_key: str | None = None,
        action_spec: ActionSpec | None = None,
        map_actions: MapActions | None = None,
        name: str | None = None,
    ) -> None:
        """Open a data set.

        Args:
            folder: the folder that holds ``meta/info.json``.
            image_key: feature of the images. None: as noted by our writer, or the only one.
            action_key: feature of the action, a vector of numbers, or several to be joined.
            instruction_key: feature of the instruction, text. None: the tasks of the data set.
            action_spec: dimensions and bounds of the action. None: as noted by our writer, else one continuous part
                for each key, with the minima and maxima of the actions.
            map_actions: what makes the action of ``action_spec`` from the stored one.
            name: name for tables and errors, default as noted by our writer, else the folder's.

        Raises:
            DataError: another version of the format, an unknown feature, a missing or damaged file, or an unusable
                episode.
        """
        self.folder, self.name = Path(folder), name or ""
        keys = (action_key,) if isinstance(action_key, str) else tuple(action_key)
        with reading(self.folder, cure=schema.COPY_AGAIN):
            self._open(image_key, keys, instruction_key, action_spec, map_actions)

    def _open(
        self,
        image_key: str | None,
        keys: Sequence[str],
        instruction_key: str | None,
        action_spec: ActionSpec | None,
        map_actions: MapActions | None,
    ) -> None:
        info = schema.read_info(self.folder)
        notes = read_recorder_notes(self.folder / schema.RT1_FILE, name=str, image_key=str)
        self.name = self.name or notes.name or self.folder.resolve().name
        self.image_key = info.image_key(image_key or notes.image_key)
        spec = action_spec or notes.action_spec
        sizes = _action_sizes(info, keys, spec if map_actions is None else None)
        if instruction_key is not None:
            info.check_instruction_key(instruction_key)
        in_video = info.features[self.image_key]["dtype"] == "video"
        version = schema if info.version == schema.VERSION else v2
        episodes = version.read_episodes(self.folder, info, self.image_key if in_video else None)
        step_keys = StepKeys(
            actions=sizes,
            reward=schema.REWARD_KEY in info.features,
            success=schema.SUCCESS_KEY in info.features,
            instruction=instruction_key,
        )
        steps = _cached_steps(self.folder, episodes, step_keys, info.fps)
        if changing := int(steps.changes.sum()):
            message = f"{changing} episodes change their instruction. The first one stands for all steps"
            warnings.warn(f"{self.name}: {message}", stacklevel=4)
        self.lengths: NDArray[np.int64] = episodes.lengths
        self._ends = np.cumsum(self.lengths)
        self._actions = steps.actions if map_actions is None else self._mapped(steps.actions, map_actions, spec)
        self.action_spec = spec or _spec_of_data(self.folder, info, steps, sizes)
        self.text_encoder = notes.text_encoder
        self.details: dict[str, Any] = {"control_rate": info.fps, **notes.details}
        tasks = version.read_tasks(self.folder) if instruction_key is None else {}
        self._instructions = episode_instructions(tasks, steps, episodes)
        self._tasks, self._seeds = episodes.tasks, episodes.seeds
        self._rewards, self._success = steps.rewards, steps.success
        self._embeddings = schema.read_embeddings(self.folder, episodes=len(self.lengths))
        if self._embeddings is None and notes.text_encoder is not None:
            raise DataError(f"{self.folder / schema.EMBEDDING_FOLDER} is missing. {schema.COPY_AGAIN}")
        self._images = (
            VideoImages(episodes.video_files, steps.video_starts, info.fps)
            if in_video
            else StoredImages(episodes, steps.rows, self.image_key)
        )

    def _mapped(self, actions: FloatArray, map_actions: MapActions, spec: ActionSpec | None) -> FloatArray:
        parts = [map_actions(stored) for stored in np.split(actions, self._ends[:-1])]
        mapped = np.concatenate(parts)
        if mapped.dtype != np.float32 or spec is None or mapped.shape != (len(actions), spec.size):
            result = f"map_actions returned {mapped.dtype} {mapped.shape}"
            raise DataError(f"{self.name}: {result}. It must return float32 (S, A) for the A dimensions of action_spec")
        if not np.isfinite(mapped).all():
            raise DataError(f"{self.name}: map_actions returned values that are not finite")
        return mapped

    def instruction(self, episode: int) -> str:
        check_steps(self, episode)
        return self._instructions[episode][0]

    def instructions(self, episode: int) -> tuple[str, ...]:
        """Return all sentences of an episode, its instruction first: those of its list of tasks."""
        check_steps(self, episode)
        return self._instructions[episode]

    def task(self, episode: int) -> str:
        """Return the task name noted by our writer, else an empty string."""
        check_steps(self, episode)
        return self._tasks[episode]

    def outcome(self, episode: int) -> Outcome:
        """Return success and rewards as LeRobot's environments note them, and the seed noted by our writer."""
        check_steps(self, episode)
        stop = int(self._ends[episode])
        return Outcome(
            success=None if self._success is None else bool(self._success[episode]),
            seed=None if self._seeds is None else int(self._seeds[episode]),
            rewards=None if self._rewards is None else self._rewards[stop - int(self.lengths[episode]) : stop].copy(),
        )

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
        first = int(self._ends[episode] - self.lengths[episode])
        return self._actions[first + start : first + stop].copy()


def _action_sizes(info: schema.Info, keys: Sequence[str], spec: ActionSpec | None) -> dict[str, int]:
    """Return the number of entries of each feature of the action, which together must be those of the spec."""
    sizes = {key: info.action_size(key) for key in keys}
    if len(sizes) < len(keys):
        raise DataError(f"the action keys are {', '.join(keys)}. Name each of them once")
    if spec is not None and spec.size != sum(sizes.values()):
        names = ", ".join(spec.dimension_names)
        entries = f"{' and '.join(map(repr, keys))} has {sum(sizes.values())} entries"
        raise DataError(f"{entries}, the action spec {spec.size} dimensions ({names})")
    return sizes


def _cached_steps(folder: Path, episodes: schema.Episodes, keys: StepKeys, fps: float) -> Steps:
    """Return the columns of all steps, from the cache where there are many files."""

    def read() -> StoredArrays:
        starts = starts_in_files(episodes, fps) if episodes.video_files else episodes.video_starts
        steps = dataclasses.replace(read_steps(episodes, keys, fps), video_starts=starts)
        return StoredArrays(arrays={name: array for name, array in vars(steps).items() if array is not None})

    numbers = np.concatenate([episodes.lengths, episodes.video_starts, episodes.video_stops])
    settings = {
        "keys": dataclasses.asdict(keys),
        "fps": fps,
        "format": _FORMAT,
        "episodes": hashlib.sha256(numbers.tobytes()).hexdigest(),
    }
    files = list(dict.fromkeys([*episodes.data_files, *episodes.video_files]))
    if len(files) <= FEW_FILES:
        stored = read()
    else:
        stored = load_or_make(index_folders(folder, "lerobot", settings), settings, files, read)
    return Steps(**stored.arrays)


def _spec_of_data(folder: Path, info: schema.Info, steps: Steps, sizes: Mapping[str, int]) -> ActionSpec:
    """Return a spec of one part for each key with the bounds of the actions and the names of ``info.json``."""
    spec = spec_between(steps.low, steps.high, parts=sizes)
    _check_stats(folder, steps, sizes)
    parts = []
    for key, part in zip(sizes, spec.parts, strict=True):
        assert isinstance(part, Continuous)
        parts.append(dataclasses.replace(part, labels=info.action_names(key) or part.labels))
    named = dataclasses.replace(spec, parts=tuple(parts))
    return named if len(set(named.dimension_names)) == named.size else spec  # two arms may have the same names


def _check_stats(folder: Path, steps: Steps, sizes: Mapping[str, int]) -> None:
    """Warn once if ``stats.json`` has bounds that the actions exceed. Nothing else is taken from it."""
    path = folder / schema.STATS_FILE
    with suppress(RT1Error, *DAMAGE):  # missing, not a number, or of another form: the data have the bounds
        stats = read_json(path)
        low, high = (
            np.concatenate([np.array(stats[key][name], dtype=np.float64).reshape(size) for key, size in sizes.items()])
            for name in ("min", "max")
        )
        margin = _ROUNDING * np.maximum(np.abs(low), np.abs(high))
        low, high = low - margin, high + margin
        if (steps.low < low).any() or (steps.high > high).any():
            outside = float(((steps.actions < low) | (steps.actions > high)).mean())
            message = f"{outside:.2%} of the action values lie outside the bounds of {path}"
            warnings.warn(f"{message}. The bounds of the data are used", stacklevel=5)
