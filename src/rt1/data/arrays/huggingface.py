"""Hugging Face ``datasets`` with image or video, action and instruction columns as an episode source."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from rt1.actions import ActionSpec
from rt1.common.border import reading
from rt1.common.first_look import COPY_AGAIN, check_unchanged, stamp_of
from rt1.common.suggest import unknown_name
from rt1.data.arrays.base import ArrayLayout, ArraySource, EpisodeArrays, Image, text_of
from rt1.data.sources.video import TOLERANCE, OpenVideos, Video
from rt1.errors import DataError

if TYPE_CHECKING:
    import datasets  # type: ignore[import-untyped,import-not-found,unused-ignore]

_VIDEO_CURE = "Store the video again, or leave the episode out"
_ROWS = 4096  # rows of the low-dimensional columns read at once


@dataclass(frozen=True, kw_only=True)
class HuggingFaceLayout(ArrayLayout):
    """Columns of a data set. Images are ``datasets.Image``, or pixels, uint8 (H, W, 3).

    If a row is an episode, its images may be one ``datasets.Video`` with an image per action, which needs PyAV.
    """

    instruction_key: str | None = "instruction"
    """Column of the instruction, or None."""
    episode_key: str | None = "episode_index"
    """Column with the episode of a row. The rows of an episode are consecutive. None: a row is an episode, with lists
    of images and actions."""


class HuggingFaceSource(ArraySource):
    """Episodes of a ``datasets.Dataset``. An :class:`~rt1.data.sources.base.EpisodeSource`. Needs ``datasets``."""

    def __init__(
        self,
        dataset: datasets.Dataset,
        *,
        layout: HuggingFaceLayout | None = None,
        action_spec: ActionSpec | None = None,
        name: str = "hugging-face",
    ) -> None:
        """Wrap one split, such as ``datasets.load_dataset(..., split="train")``, without reading images.

        Without ``action_spec`` the action is one continuous part, bounded by the data. A column that is missing or
        holds something else, or an episode in pieces, raises :class:`DataError`.
        """
        import pyarrow as pa

        layout = layout or HuggingFaceLayout()
        named = (*layout.action_keys, layout.instruction_key, layout.embedding_key, layout.episode_key)
        keys = [key for key in named if key is not None]
        for key in (layout.image_key, *keys):
            if key not in dataset.column_names:
                raise DataError(f"{name}: {unknown_name('column', key, dataset.column_names)}")
        self._layout = layout
        dataset = _with_names(dataset, layout.instruction_key)
        plain = dataset.with_format(None)
        self._parser_errors = (pa.ArrowException,)
        self._videos = OpenVideos()
        with reading(name, cure=COPY_AGAIN, also=self._parser_errors):
            files = [Path(file["filename"]) for file in dataset.cache_files]
            self._stamps = {file: stamp_of(file) for file in files}
            self._rows, self._is_video = _undecoded(name, plain.select_columns([layout.image_key]), layout)
            if layout.episode_key is None:
                self._starts = np.arange(len(dataset))
                episodes = [
                    _arrays(f"{name}, row {row}", values, [values[key] for key in layout.action_keys], layout)
                    for row, values in enumerate(plain.select_columns(keys))
                ]
            else:
                self._starts, episodes = _runs(name, plain.select_columns(keys), layout, layout.episode_key)
        self._counts = [episode.steps for episode in episodes]
        super().__init__(episodes, layout, name=name, action_spec=action_spec)

    def _stored(self, episode: int, start: int, stop: int) -> Sequence[bytes | Image]:
        for file, stamp in self._stamps.items():
            check_unchanged(file, stamp)
        first = int(self._starts[episode])
        key = self._layout.image_key
        if self._is_video:
            where, count = self._where[episode], self._counts[episode]
            return video_images(where, lambda: self._rows[first][key], count, start, stop, videos=self._videos)
        if self._layout.episode_key is None:
            row = self._rows[first][key]
            if not isinstance(row, list) or len(row) != self._counts[episode]:
                content = f"{len(row)} images" if isinstance(row, list) else f"a {type(row).__name__}"
                rule = f"Without episode_key it must be a list of {self._counts[episode]} images, one for each action"
                raise DataError(f"{self._where[episode]}: {key!r} holds {content}. {rule}")
            values = row[start:stop]
        else:
            values = self._rows[first + start : first + stop][key]
        return [self._image(episode, step, value) for step, value in enumerate(values, start)]

    def _image(self, episode: int, step: int, value: object) -> bytes | Image:
        if isinstance(value, dict) and isinstance(value.get("bytes"), bytes):
            return value["bytes"]
        where = f"{self.name}, episode {episode}, step {step}"
        if isinstance(value, dict) and value.get("path"):
            try:
                return Path(value["path"]).read_bytes()
            except OSError as error:
                reason = error.strerror or error
                raise DataError(f"{where}: {value['path']}: {reason}. The image is kept there") from error
        pixels = np.asarray(value)
        if self._layout.channels_first and pixels.ndim == 3:
            pixels = pixels.transpose(1, 2, 0)
        whole = pixels.dtype.kind in "iu" and pixels.size and pixels.min() >= 0 and pixels.max() <= 255
        if pixels.ndim != 3 or pixels.shape[2] != 3 or not whole:
            shape = f"{pixels.dtype} {pixels.shape}"
            raise DataError(f"{where}: the image is {shape}. It must be a datasets.Image or pixels 0..255 (H, W, 3)")
        return np.ascontiguousarray(pixels, dtype=np.uint8)


def _undecoded(name: str, dataset: datasets.Dataset, layout: HuggingFaceLayout) -> tuple[datasets.Dataset, bool]:
    """Return the data set with its images as stored bytes instead of decoded, and whether they are videos."""
    import datasets

    key = layout.image_key
    feature = dataset.features[key]
    if isinstance(feature, datasets.Video):
        if layout.episode_key is not None:
            cure = "Leave out episode_key, and store a list of actions in each row"
            raise DataError(f"{name}: {key!r} is a video, which holds a whole episode, not a step. {cure}")
        return dataset.cast_column(key, datasets.Video(decode=False)), True
    inner = getattr(feature, "feature", None)
    if isinstance(feature, datasets.Image):
        return dataset.cast_column(key, datasets.Image(decode=False)), False
    if isinstance(inner, datasets.Image):
        return dataset.cast_column(key, type(feature)(datasets.Image(decode=False))), False
    return dataset, False


def _with_names(dataset: datasets.Dataset, key: str | None) -> datasets.Dataset:
    """Return the data set with the names of a column of class labels instead of their numbers."""
    import datasets

    feature = None if key is None else dataset.features[key]
    if not isinstance(feature, datasets.ClassLabel):
        return dataset
    names = [feature.int2str(number) for number in dataset[key]]
    return dataset.remove_columns([key]).add_column(key, names)


def _runs(
    name: str, dataset: datasets.Dataset, layout: HuggingFaceLayout, episode_key: str
) -> tuple[NDArray[np.int64], list[EpisodeArrays]]:
    """Return the first row of each episode, and the episodes, of a data set whose rows are steps."""
    columns = dataset.select_columns([episode_key, *layout.action_keys])
    pieces = [columns[start : start + _ROWS] for start in range(0, len(dataset), _ROWS)]
    numbers = np.array([number for piece in pieces for number in piece[episode_key]])
    rows = [[row for piece in pieces for row in piece[key]] for key in layout.action_keys]
    starts = np.flatnonzero(np.append(True, numbers[1:] != numbers[:-1])[: len(numbers)])
    firsts, counts = np.unique(numbers[starts], return_counts=True)
    if (counts > 1).any():
        broken = firsts[counts > 1][0]
        raise DataError(f"{name}: episode {broken} lies in several pieces. Sort the data set by {episode_key!r}")
    episodes = [
        _arrays(f"{name}, episode {numbers[start]}", dataset[int(start)], [key[start:stop] for key in rows], layout)
        for start, stop in zip(starts, np.append(starts, len(numbers))[1:], strict=True)
    ]
    return starts, episodes


def _arrays(where: str, first: dict[str, Any], actions: list[Any], layout: HuggingFaceLayout) -> EpisodeArrays:
    """Return an episode from the values of its first row and the steps of each action key."""
    key = layout.embedding_key
    arrays = tuple(_numbers(where, values, name) for values, name in zip(actions, layout.action_keys, strict=True))
    instruction = None if layout.instruction_key is None else first[layout.instruction_key]
    if isinstance(instruction, list):
        instruction = instruction[0] if instruction else ""
    return EpisodeArrays(
        where=where,
        steps=len(arrays[0]),
        actions=arrays,
        instruction=text_of(instruction or ""),
        embedding=_numbers(where, first[key], key) if key else None,
    )


def _numbers(where: str, values: object, key: str) -> NDArray[Any]:
    try:
        with np.errstate(over="ignore"):  # infinity is refused later
            return np.array(values, dtype=np.float32)
    except (TypeError, ValueError, OverflowError) as error:
        raise DataError(f"{where}: {key!r} does not hold numbers of one shape ({error})") from error


def video_images(
    where: str,
    value: object,
    count: int,
    start: int,
    stop: int,
    *,
    videos: OpenVideos | None = None,
) -> list[NDArray[np.uint8]]:
    """Return images ``start..stop-1`` of a video of ``count`` images, each uint8 RGB (H, W, 3), 0..255.

    The video is decoded from the last key frame before ``start``.

    Args:
        where: the episode, for errors.
        value: value of ``datasets.Video(decode=False)``: ``{"bytes": ..., "path": ...}``, one of them set. Or a
            function that returns it, which is called only if the video is not open.
        count: number of images that it must hold.
        start: first image.
        stop: one past the last.
        videos: keeps the video open under the name ``where`` for the next call.

    Raises:
        DataError: a missing or damaged file, or another number of images.
    """

    def open_video() -> Video:
        content = value() if callable(value) else value
        data, path = (content.get(name) for name in ("bytes", "path")) if isinstance(content, dict) else (None, None)
        if not data and not path:
            raise DataError(f"{where}: the video is {content!r}. It must be a datasets.Video with bytes or a path")
        name = where if data else f"{where}: {path}"
        return Video(io.BytesIO(data) if data else str(path), name=name, cure=_VIDEO_CURE)

    with reading(where, cure=_VIDEO_CURE), (videos or OpenVideos()).borrowed(where, open_video) as video:
        times = video.times()
        if len(times) != count:
            raise DataError(f"{where}: the video has {len(times)} images for {count} actions. One is needed for each")
        step = (times[-1] - times[0]) / max(1, count - 1) or 1.0
        images = video.images(times[start:stop], TOLERANCE * step)
    if len(images) < stop - start:
        raise DataError(f"{where}: {stop - start - len(images)} images of the video do not decode. {_VIDEO_CURE}")
    return images
