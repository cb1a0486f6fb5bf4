"""Episodes stored as plain arrays: shared code of the readers of npz, HDF5 and Hugging Face data sets."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from rt1.actions import ActionSpec, FloatArray
from rt1.common.border import reading
from rt1.common.first_look import COPY_AGAIN
from rt1.data.sources.base import check_steps
from rt1.data.sources.images import decode_image, encode_png
from rt1.data.sources.sentences import sentence_of
from rt1.data.statistics import spec_between
from rt1.errors import DataError

Image = NDArray[np.uint8]
"""uint8 RGB (H, W, 3)."""
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class ArrayLayout:
    """Keys of an episode's arrays. Rows are steps."""

    image_key: str = "image"
    """uint8 RGB images (S, H, W, 3)."""
    action_keys: tuple[str, ...] = ("action",)
    """Actions (S, A), numbers. Several are joined in this order."""
    instruction_key: str | None = None
    """Instruction: one for the episode, or one per step, of which the first is used. JSON text is read by
    :func:`rt1.data.sources.sentences.sentence_of`. None: see ``instruction``."""
    instruction: str = ""
    """Sentence of every episode that stores none."""
    embedding_key: str | None = None
    """Text embedding (E,), or (S, E), of which the first is used. None: no embeddings."""
    channels_first: bool = False
    """Whether the images are (S, 3, H, W)."""
    action_is_previous: bool = False
    """Whether a row holds the action that led to its image, as dm_control, Dreamer and DrQ-v2 store it. An image is
    then paired with the action of the next row. The first action and the last image are dropped."""
    bgr: bool = False
    """Whether the images are stored with blue first. Encoded ones are, where RGB pixels were given to OpenCV."""

    def __post_init__(self) -> None:
        if self.instruction_key is None and not self.instruction.strip():
            raise ValueError(
                f"instruction_key is {self.instruction_key!r}, instruction {self.instruction!r}. "
                "Give the key of the instruction, or one sentence for all episodes"
            )
        if not self.action_keys:
            raise ValueError("action_keys is empty. Name at least one array that holds the action")


@dataclass(frozen=True, kw_only=True)
class EpisodeArrays:
    """One episode without its images."""

    where: str
    """File and group or row, for errors."""
    steps: int
    """Number of images."""
    actions: tuple[NDArray[Any], ...]
    """The array of each action key, (S, A) or (S,)."""
    instruction: str
    """As stored, or empty."""
    embedding: NDArray[Any] | None
    """(E,) or (S, E)."""


class ArraySource(ABC):
    """Base of an :class:`~rt1.data.sources.base.EpisodeSource` that holds everything but the images in memory."""

    _parser_errors: tuple[type[Exception], ...] = ()
    """Errors of the format's library about the content of a file, beyond the built-in ones."""

    def __init__(
        self, episodes: Sequence[EpisodeArrays], layout: ArrayLayout, *, name: str, action_spec: ActionSpec | None
    ) -> None:
        """Check the episodes. Unusable ones, or actions that do not fit ``action_spec``, raise :class:`DataError`."""
        if not episodes:
            raise DataError(f"{name} holds no episode. Point to the folder or data set that holds them")
        self.name = name
        self._actions = [_checked_actions(episode, layout) for episode in episodes]
        widths = {actions.shape[1] for actions in self._actions}
        if len(widths) > 1 or (action_spec and {action_spec.size} != widths):
            asked = f". The action spec has {action_spec.size}" if action_spec else ""
            raise DataError(f"{name}: the actions have {sorted(widths)} dimensions{asked}. All must be alike")
        self.action_spec = action_spec or _spec_of(self._actions, _part_widths(episodes[0], layout.action_keys))
        self.lengths: NDArray[np.int64] = np.array([len(actions) for actions in self._actions], dtype=np.int64)
        self._where = [episode.where for episode in episodes]
        self._instructions = [_checked_instruction(episode, layout) for episode in episodes]
        self.bgr = layout.bgr
        self._embeddings = [_checked_embedding(episode) for episode in episodes]

    def instruction(self, episode: int) -> str:
        check_steps(self, episode)
        return self._instructions[episode]

    def text_embedding(self, episode: int) -> FloatArray | None:
        check_steps(self, episode)
        embedding = self._embeddings[episode]
        return None if embedding is None else embedding.copy()

    def task(self, episode: int) -> str:
        """Return an empty string: these data sets have no task names."""
        check_steps(self, episode)
        return ""

    def actions(self, episode: int, start: int, stop: int) -> FloatArray:
        check_steps(self, episode, start, stop)
        return self._actions[episode][start:stop].copy()

    def images(self, episode: int, start: int, stop: int) -> list[Image]:
        return self._converted(episode, start, stop, _bgr_pixels if self.bgr else _pixels)

    def encoded_images(self, episode: int, start: int, stop: int) -> list[bytes]:
        """Return the stored bytes of encoded images, or stored pixels encoded as PNG. See ``bgr``."""
        return self._converted(episode, start, stop, _encoded)

    def _converted(self, episode: int, start: int, stop: int, convert: Callable[[bytes | Image], T]) -> list[T]:
        check_steps(self, episode, start, stop)
        if start == stop:
            return []
        with reading(self._where[episode], cure=COPY_AGAIN, also=self._parser_errors):
            return [convert(image) for image in self._stored(episode, start, stop)]

    @abstractmethod
    def _stored(self, episode: int, start: int, stop: int) -> Sequence[bytes | Image]:
        """Return the images of one step or more as JPEG or PNG bytes, or as pixels."""


def _pixels(image: bytes | Image) -> Image:
    return decode_image(image) if isinstance(image, bytes) else image


def _bgr_pixels(image: bytes | Image) -> Image:
    return np.ascontiguousarray(_pixels(image)[..., ::-1])


def _encoded(image: bytes | Image) -> bytes:
    return image if isinstance(image, bytes) else encode_png(image)


def image_count(where: str, shape: Sequence[int], dtype: np.dtype[Any], layout: ArrayLayout) -> int:
    """Return the number of images in an array of this shape. An array of anything else raises ``DataError``."""
    expected = "uint8 (S, 3, H, W)" if layout.channels_first else "uint8 (S, H, W, 3)"
    channel = 1 if layout.channels_first else 3
    if dtype != np.uint8 or len(shape) != 4 or shape[channel] != 3 or 0 in shape[1:]:
        cure = "Set channels_first if the layout is the other one, or store RGB images"
        raise DataError(f"{where}: {layout.image_key!r} is {dtype} {tuple(shape)}. It must be {expected}. {cure}")
    return int(shape[0])


def unstack(images: NDArray[Any], layout: ArrayLayout) -> list[Image]:
    """Return an array of images as separate uint8 RGB (H, W, 3) images."""
    if layout.channels_first:
        images = images.transpose(0, 2, 3, 1)
    return list(np.ascontiguousarray(images, dtype=np.uint8))


def text_of(value: object) -> str:
    """Return a stored text: a string, bytes, or the first of an array. Anything else raises ``ValueError``."""
    if isinstance(value, np.ndarray):
        value = value.reshape(-1)[0] if value.size else ""
    text = value.decode("utf-8") if isinstance(value, bytes) else value
    if not isinstance(text, str):
        raise ValueError(f"the instruction is {type(value).__name__}, must be text")
    text.encode("utf-8")  # h5py returns lone surrogates for bytes that are not UTF-8
    return str(text)


def files_in(path: Path, endings: Sequence[str]) -> list[Path]:
    """Return the files of a folder with one of these endings in natural order. No such file raises ``DataError``.

    They lie in the folder itself, or else in folders below it.
    """
    if not path.is_dir():
        raise DataError(f"{path} is not a folder. Point to the folder that holds the episodes")
    files = [file for file in path.iterdir() if file.suffix in endings and file.is_file()]
    files = files or [file for file in path.rglob("*") if file.suffix in endings and file.is_file()]
    if not files:
        raise DataError(f"{path} has no file ending in {' or '.join(endings)}. Point to the folder of the episodes")
    return sorted(files, key=lambda file: natural_order(str(file)))


def natural_order(name: str) -> list[tuple[int, str]]:
    """Return a sorting key under which ``demo_2`` comes before ``demo_10``.

    >>> sorted(["demo_10", "demo_2"], key=natural_order)
    ['demo_2', 'demo_10']
    """
    return [(int(piece), "") if piece.isdecimal() else (-1, piece) for piece in re.split(r"(\d+)", name)]


def _checked_actions(episode: EpisodeArrays, layout: ArrayLayout) -> FloatArray:
    for key, actions in zip(layout.action_keys, episode.actions, strict=True):
        if actions.dtype.kind not in "fiu" or actions.ndim not in (1, 2):
            raise DataError(f"{episode.where}: {key!r} is {actions.dtype} {actions.shape}. It must hold numbers (S, A)")
        if len(actions) != episode.steps:
            raise DataError(
                f"{episode.where}: {episode.steps} images and {len(actions)} actions. Store one each a step"
            )
    first = 1 if layout.action_is_previous else 0
    if episode.steps <= first:
        raise DataError(f"{episode.where}: the episode has no steps. Leave it out")
    with np.errstate(over="ignore", invalid="ignore"):  # refused below
        parts = [actions.reshape(len(actions), -1).astype(np.float32)[first:] for actions in episode.actions]
    values = np.concatenate(parts, axis=1)
    if not np.isfinite(values).all():
        step = int(np.argmin(np.isfinite(values).all(axis=1)))
        raise DataError(f"{episode.where}: the action of step {step} is {values[step].tolist()}. It must be finite")
    return values


def _checked_instruction(episode: EpisodeArrays, layout: ArrayLayout) -> str:
    try:
        sentence = sentence_of(episode.instruction)
    except DataError as error:
        raise DataError(f"{episode.where}: {error}") from error
    return sentence if sentence.strip() else layout.instruction


def _checked_embedding(episode: EpisodeArrays) -> FloatArray | None:
    if episode.embedding is None:
        return None
    stored = np.asarray(episode.embedding)
    embedding = stored[0] if stored.ndim == 2 and len(stored) else stored
    if embedding.dtype.kind == "f":
        with np.errstate(over="ignore", invalid="ignore"):  # refused here
            embedding = embedding.astype(np.float32)
    if embedding.dtype != np.float32 or embedding.ndim != 1 or not np.isfinite(embedding).all():
        shape = f"{stored.dtype} {stored.shape}"
        raise DataError(f"{episode.where}: the text embedding is {shape}. It must be finite floats (E,) or (S, E)")
    return embedding


def _spec_of(actions: Sequence[FloatArray], widths: Mapping[str, int]) -> ActionSpec:
    low, high = (np.stack([bound(a, axis=0) for a in actions]) for bound in (np.min, np.max))
    return spec_between(low.min(axis=0), high.max(axis=0), parts=widths)


def _part_widths(episode: EpisodeArrays, keys: Sequence[str]) -> dict[str, int]:
    """Return the number of dimensions of each action key, by the last part of the key where these differ."""
    names = [key.rsplit("/", 1)[-1] for key in keys]
    names = names if len(set(names)) == len(names) else list(keys)
    return {name: array.shape[1] if array.ndim == 2 else 1 for name, array in zip(names, episode.actions, strict=True)}
