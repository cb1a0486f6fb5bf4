"""The batched step: one new image per robot in, one action's logits per robot out, for any number of robots at once.

Shape letters: S robots in one call, N steps, T images remembered, H height, W width, K tokens per image, E text or
token width, P positions, A action dimensions, V bins.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rt1.actions import FloatArray
from rt1.policy.base import check_embedding
from rt1.policy.engines.base import Engine

if TYPE_CHECKING:
    from rt1.model.rt1 import RT1


@dataclass(eq=False, kw_only=True)
class EpisodeState:
    """One robot's episode so far, made by :meth:`Stepper.start`, changed only by :meth:`Stepper.step`."""

    text_E: FloatArray
    """Text embedding of the instruction."""
    condition: FloatArray
    """What the network made of it, or of no instruction, once."""
    token_TKE: FloatArray
    """Image tokens of the last images, oldest first. T grows from 0 to the network's window."""
    map_KP: FloatArray | None = None
    """TokenLearner's weights on the last image. None before the first one."""
    null: EpisodeState | None = None
    """The same episode without the instruction, where guidance compares with it."""

    @property
    def images(self) -> int:
        return len(self.token_TKE)

    def copy(self) -> EpisodeState:
        return replace(self, null=None if self.null is None else self.null.copy())


class PreparedImage(NamedTuple):
    """An image as the network sees it, made by :meth:`Stepper.prepare`."""

    image_HWC: FloatArray
    """float32 (*image_size, 3) in [0, 1]."""


class Stepper:
    """A network ready to act. It holds no episode: each robot has its :class:`EpisodeState`. Not thread-safe.

    Each step encodes the one new image, reuses the image tokens of the past images, and runs the transformer once
    (docs/network.md). An episode starts empty, with its first image at the first position of the window.
    """

    def __init__(self, engine: Engine | RT1, *, cond_scale: float = 1.0) -> None:
        """Store what runs the network.

        Args:
            engine: it. A network itself is run by torch on the CPU, with its weights as they are now.
            cond_scale: s of classifier-free guidance: logits are ``null + s * (cond - null)``, computed as one batch.
                1 is the network without guidance and its cost, 0 ignores the instruction.

        Raises:
            ValueError: a negative scale, or a scale other than 1 for a network trained without text dropout.
        """
        if not isinstance(engine, Engine):
            from rt1.policy.engines.torch import TorchEngine

            engine = TorchEngine(engine)
        self.engine = engine
        self.cond_scale = _checked_scale(cond_scale, guidance=engine.sizes.guidance)

    def start(self, embedding: FloatArray) -> EpisodeState:
        """Return the state of a new episode for a text embedding, float32 (E,), as :func:`check_embedding` allows."""
        sizes = self.engine.sizes
        check_embedding(embedding, sizes.text_width, vocabulary=sizes.vocabulary)
        text_E = np.array(embedding, dtype=np.float32)
        state = self._state(text_E, dropped=False)
        if self.cond_scale != 1.0:
            state.null = self._state(text_E, dropped=True)
        return state

    def _state(self, text_E: FloatArray, *, dropped: bool) -> EpisodeState:
        sizes = self.engine.sizes
        return EpisodeState(
            text_E=text_E,
            condition=self.engine.condition(text_E[None], dropped=dropped)[0],
            token_TKE=np.zeros((0, sizes.image_tokens, sizes.token_width), np.float32),
        )

    def step(self, states: Sequence[EpisodeState], images: Sequence[NDArray[Any] | PreparedImage]) -> FloatArray:
        """Take one new image into each episode and return float32 logits (S, A, V).

        Each robot's logits are those it would get alone, up to the rounding of the engine's precision. If an image is
        refused, no episode changes.

        Args:
            states: S different episodes of any length.
            images: S images as for :meth:`prepare`, or its results.

        Raises:
            ValueError: an invalid image, the same episode twice, or unequal numbers of both.
        """
        if len(states) != len(images) or not states:
            raise ValueError(f"{len(states)} episodes and {len(images)} images. Give one image for each robot")
        if len(set(map(id, states))) != len(states):
            raise ValueError("the same episode was given twice. A robot takes one image per step")
        prepared = [image if isinstance(image, PreparedImage) else self.prepare(image) for image in images]
        image_SHWC = np.stack([image.image_HWC for image in prepared])
        nulls = [state.null for state in states if state.null is not None]
        if not nulls:
            return self._logits(states, image_SHWC)
        both_SAV = self._logits([*states, *nulls], np.concatenate([image_SHWC, image_SHWC]))
        return guided(both_SAV[: len(states)], both_SAV[len(states) :], self.cond_scale)

    def _logits(self, states: Sequence[EpisodeState], image_SHWC: FloatArray) -> FloatArray:
        window, condition = self.engine.sizes.window, np.stack([state.condition for state in states])
        token_SKE, map_SKP = self.engine.encode(image_SHWC, condition)
        for state, token_KE, map_KP in zip(states, token_SKE, map_SKP, strict=True):
            earlier_TKE = state.token_TKE[max(0, state.images + 1 - window) :]
            state.token_TKE = np.concatenate([earlier_TKE, token_KE[None]])
            state.map_KP = map_KP.copy()  # not a view, which would keep all robots' maps
        # Shorter episodes are padded with zeros: nothing attends to later steps.
        steps = max(state.images for state in states)
        token_STKE = np.zeros((len(states), steps, *token_SKE.shape[1:]), np.float32)
        for robot, state in enumerate(states):
            token_STKE[robot, : state.images] = state.token_TKE
        return self.engine.decode(token_STKE, np.array([state.images - 1 for state in states]), condition)

    def episode_logits(self, embedding: FloatArray, images: Iterable[NDArray[Any]]) -> FloatArray:
        """Take the images of an episode one after another and return float32 logits (N, A, V)."""
        state = self.start(embedding)
        return np.stack([self.step([state], [image])[0] for image in images])

    def attention_maps(self, state: EpisodeState) -> FloatArray:
        """Return TokenLearner's weights on the last image, float32 (K, rows, columns). Each map's sum is 1."""
        if state.map_KP is None:
            raise ValueError("there are no attention maps before the first image. Take a step first")
        return state.map_KP.reshape(-1, *self.engine.sizes.grid)

    def prepare(self, image: NDArray[Any]) -> PreparedImage:
        """Return an image as the network's input. Several threads may call this.

        Args:
            image: RGB (H, W, 3), uint8 in [0, 255] or float in [0, 1], any size.

        Raises:
            ValueError: another shape or dtype, or values outside [0, 1].
        """
        return PreparedImage(self.engine.prepare(image))


def guided(cond: Any, null: Any, scale: float) -> Any:  # noqa: ANN401 (arrays or tensors)
    """Return logits moved from those without the instruction to those with it, and beyond for a scale above 1."""
    return null + scale * (cond - null)


def _checked_scale(scale: float, *, guidance: bool) -> float:
    if not (math.isfinite(scale) and scale >= 0.0):
        raise ValueError(f"cond_scale is {scale}, must be a number of at least 0, where 1 is the network as it is")
    if scale != 1.0 and not guidance:
        raise ValueError(
            f"cond_scale is {scale}, but this network was trained with the text in every sample (text.drop is 0) and "
            "knows no action without it. Use 1, or train with --model.text.drop 0.1"
        )
    return scale
