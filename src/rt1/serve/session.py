"""One robot's session on the server: what its observations ask for, and its own episode."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rt1.data.sources.images import MAX_PIXELS, decode_image, decoding_work
from rt1.errors import DataError, ObservationError
from rt1.policy.base import LONGEST_INSTRUCTION, Instruction
from rt1.policy.stepper import EpisodeState, PreparedImage
from rt1.serve.protocol import shown
from rt1.text.pieces import normalized

_LOG = logging.getLogger(__name__)
LARGE_PIXELS = 1 << 20
"""An image of more pixels is prepared before its step, so that the step takes no longer than others."""
LARGE_FLOAT_PIXELS = 1 << 18
"""A float image of more pixels takes longer than some 10 ms to convert."""
SMALL_WORK = 1 << 22
"""An encoded image of no more :func:`~rt1.data.sources.images.decoding_work` decodes in some 10 ms."""
_IMAGE_KEYS = ("image", "observation/image")
_INSTRUCTION_KEYS = ("instruction", "prompt")


class Effort(Enum):
    """How long reading an observation takes at most."""

    NONE = auto()
    """Well under a millisecond: there is no image to decode or prepare, and no episode starts."""
    SMALL = auto()
    """Some 10 ms: a small image is decoded or converted, as robots send them all the time."""
    START = auto()
    """An episode starts, which encodes a sentence."""
    LARGE = auto()
    """Longer: large images, or several."""


@dataclass(frozen=True, kw_only=True)
class StepRequest:
    """What one observation asks for."""

    state: EpisodeState
    """The episode that the images come to."""
    images: tuple[NDArray[Any] | PreparedImage, ...]
    """RGB (H, W, 3) each, or prepared, oldest first. The action is that of the last. None: a reset alone."""
    is_own_episode: bool = False
    """True for stacked images, which leave the session's own episode alone."""


class Session:
    """The episode of one connection. Not thread-safe."""

    def __init__(
        self,
        start: Callable[[Instruction], EpisodeState],
        prepare: Callable[[NDArray[np.uint8]], PreparedImage],
        *,
        window: int,
        episode_pause: float = 0.0,
    ) -> None:
        """Start without an episode. ``start`` refuses an instruction with ``ValueError``.

        A client that never sends ``reset`` starts a new episode after ``episode_pause`` seconds without a request. 0
        turns this off.
        """
        self._start, self._prepare, self._window, self._episode_pause = start, prepare, window, episode_pause
        self._sends_reset = self._has_warned = False
        self._state: EpisodeState | None = None
        self._instruction: Instruction | None = None

    def pause(self, seconds: float) -> None:
        """End the episode if the client sends no ``reset`` and a pause between two requests was this long."""
        if not self._sends_reset and 0 < self._episode_pause < seconds:
            self._state = None

    def read(self, observation: Any) -> StepRequest:  # noqa: ANN401 (it comes from outside)
        """Return what an observation asks for, and start a new episode where it asks for one.

        Args:
            observation: ``image`` (or ``observation/image``): JPEG or PNG bytes, or RGB (H, W, 3) or (3, H, W), uint8
                or float 0..1. Stacked images (T, H, W, 3), oldest first, are an episode of their own that leaves this
                session's episode alone.
                ``instruction`` (or ``prompt``): sentence or float (E,) text embedding. It is kept for later
                observations, and a different one (in more than case and blanks) starts a new episode. ``reset``: True
                starts a new episode. Other keys are ignored.

        Raises:
            ObservationError: a key is missing or wrong. The episode does not change.
        """
        if not isinstance(observation, dict):
            raise ObservationError(f"the observation is a {type(observation).__name__}, must be a map")
        new_instruction, reset = _one_of(observation, _INSTRUCTION_KEYS), observation.get("reset", False)
        if not isinstance(reset, bool | np.bool_):
            raise ObservationError(f"reset is {shown(reset)}, must be true or false")
        self._sends_reset |= "reset" in observation
        instruction = self._instruction if new_instruction is None else _checked_instruction(new_instruction)
        if instruction is None:
            raise ObservationError("there is no instruction yet. Send one as 'instruction' or 'prompt'")
        image = _one_of(observation, _IMAGE_KEYS)
        image = None if image is None else _checked_image(image)
        if image is None and not reset:
            keys = ", ".join(map(repr, sorted(observation)))[:200]
            raise ObservationError(f"the observation has no image, only {keys}. Send one as {' or '.join(_IMAGE_KEYS)}")
        if image is not None and image.ndim == 4:
            return self._stacked(image, instruction)
        state = self._state
        if reset or state is None or self._instruction is None or not _is_same(instruction, self._instruction):
            state = self._start(instruction)
            self._state, self._instruction = state, instruction
        elif not self._sends_reset and not self._has_warned:
            self._has_warned = True
            _LOG.warning(
                "a client sends no 'reset', so that its episodes are told apart by pauses of %g s alone. Let it send "
                "'reset': true with the first image of an episode, else false",
                self._episode_pause,
            )
        return StepRequest(state=state, images=() if image is None else (self._prepared(image),))

    def effort(self, observation: Any) -> Effort:  # noqa: ANN401 (it comes from outside)
        """Return how long :meth:`read` takes at most, without doing any of its work."""
        if not isinstance(observation, dict):
            return Effort.NONE
        image, instruction = (_one_of(observation, keys) for keys in (_IMAGE_KEYS, _INSTRUCTION_KEYS))
        if _is_slow(image):
            return Effort.LARGE
        continues = instruction is None or (isinstance(instruction, str) and _is_same(instruction, self._instruction))
        if self._state is None or not continues or observation.get("reset", False) is not False:
            return Effort.START
        takes_work = isinstance(image, bytes) or (isinstance(image, np.ndarray) and image.dtype.kind == "f")
        return Effort.SMALL if takes_work else Effort.NONE

    def remember(self, turn: StepRequest, state: EpisodeState) -> None:
        """Keep the episode as a turn has left it."""
        if not turn.is_own_episode:
            self._state = state

    def _prepared(self, image: NDArray[np.uint8]) -> NDArray[Any] | PreparedImage:
        return self._prepare(image) if _is_large(image) else image

    def _stacked(self, images: NDArray[np.uint8], instruction: Instruction) -> StepRequest:
        if not 1 <= len(images) <= self._window:
            raise ObservationError(f"{len(images)} stacked images were sent. This network takes 1..{self._window}")
        return StepRequest(
            state=self._start(instruction), images=tuple(map(self._prepared, images)), is_own_episode=True
        )


def _is_same(one: Instruction, other: Instruction | None) -> bool:
    """Return whether two instructions are one episode's. Case and blanks make no other sentence."""
    if isinstance(one, str) and isinstance(other, str):
        return normalized(one) == normalized(other)
    return np.array_equal(one, other) if type(one) is type(other) else False


def _one_of(observation: dict[str, Any], keys: tuple[str, str]) -> Any:  # noqa: ANN401
    if all(key in observation for key in keys):
        raise ObservationError(f"the observation has both {keys[0]!r} and {keys[1]!r}. Send one of them")
    return observation.get(keys[0], observation.get(keys[1]))


def _checked_instruction(instruction: Any) -> Instruction:  # noqa: ANN401
    if isinstance(instruction, str):
        if len(instruction) > LONGEST_INSTRUCTION:
            raise ObservationError(
                f"the instruction has {len(instruction)} characters. It may have {LONGEST_INSTRUCTION}. Send fewer"
            )
        return instruction
    if isinstance(instruction, np.ndarray) and instruction.dtype.kind == "f" and instruction.ndim == 1:
        with np.errstate(over="ignore"):  # an infinity is refused with the other values that are not finite
            return instruction.astype(np.float32)
    raise ObservationError(f"the instruction is {shown(instruction)}, must be a sentence or a float text embedding")


def _checked_image(image: Any) -> NDArray[np.uint8]:  # noqa: ANN401
    if isinstance(image, bytes):
        try:
            return decode_image(image)
        except DataError as error:
            reason = re.sub(r"[.;] [^.;]*$", "", str(error))  # without its cure
            raise ObservationError(
                f"the image does not decode: {reason}. Send a whole JPEG or PNG, or a uint8 array"
            ) from error
    if not isinstance(image, np.ndarray):
        raise ObservationError(f"the image is a {type(image).__name__}. Send JPEG bytes or a uint8 array")
    is_image = image.ndim in (3, 4) and 3 in (image.shape[-1], image.shape[-3]) and image.size > 0
    if not is_image or (image.dtype != np.uint8 and image.dtype.kind != "f"):
        raise ObservationError(
            f"the image is {image.dtype} {image.shape}, must be uint8 RGB (H, W, 3), or stacked (T, H, W, 3), or "
            "such with the channels first, or float 0..1"
        )
    if image.shape[-1] != 3:
        image = np.ascontiguousarray(np.moveaxis(image, -3, -1))
    height, width = image.shape[-3:-1]
    if height * width > MAX_PIXELS:
        raise ObservationError(f"the image is {height}x{width}. It may have {MAX_PIXELS} pixels. Send a smaller one")
    return image if image.dtype == np.uint8 else _from_float(image)


def _from_float(image: NDArray[np.floating[Any]]) -> NDArray[np.uint8]:
    low, high = float(image.min()), float(image.max())
    if not (low >= 0 and high <= 1):
        raise ObservationError(f"the image is {image.dtype} of {low:g}..{high:g}. A float image must lie in 0..1")
    return np.rint(image.astype(np.float32) * 255).astype(np.uint8)


def _is_slow(image: Any) -> bool:  # noqa: ANN401
    """Whether decoding or preparing an image takes long. One that does not decode is refused before it is decoded."""
    if isinstance(image, bytes):
        with suppress(DataError):
            return decoding_work(image) > SMALL_WORK
    if not isinstance(image, np.ndarray):
        return False
    return image.ndim != 3 or image.size // 3 > (LARGE_PIXELS if image.dtype == np.uint8 else LARGE_FLOAT_PIXELS)


def _is_large(image: NDArray[Any]) -> bool:
    return image.size // 3 > LARGE_PIXELS
