"""What all policies have in common: from logits to actions. Numpy only, for robots without torch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rt1.actions import ActionSpec, FloatArray
from rt1.errors import PolicyError

Instruction = str | NDArray[np.float32]
LONGEST_INSTRUCTION = 500
"""Characters of a sentence that comes over a network: text encoders take time and memory for long ones."""

MAX_EMBEDDING = 1e4
"""Largest absolute entry of a text embedding. Those of encoders stay below 100, ids of word pieces below 10,000."""


class BasePolicy(ABC):
    """A policy: from an instruction and the images of an episode to actions."""

    action_spec: ActionSpec
    """Dimensions, bounds and bins of its actions."""

    @abstractmethod
    def reset(self, instruction: Instruction) -> None:
        """Forget the last episode and take an instruction: a sentence, or its text embedding, float32 (E,)."""

    @abstractmethod
    def logits(self, image: NDArray[Any]) -> FloatArray:
        """Add a new image to the episode and return float32 logits (A, V), which may not be finite."""

    def episode_logits(self, instruction: Instruction, images: Iterable[NDArray[Any]]) -> FloatArray:
        """Start an episode and return the logits (N, A, V) of its N images."""
        self.reset(instruction)
        return np.stack([self.logits(image) for image in images])

    def act(self, image: NDArray[Any]) -> dict[str, NDArray[Any]]:
        """Return the action for a new image.

        Args:
            image: RGB (H, W, 3), uint8 in [0, 255] or float in [0, 1], any size.

        Returns:
            The action by part name, physical units: float32 (n,), one-hot int32 (choices,) for a choice.

        Raises:
            PolicyError: a logit is not finite. There is no action.
        """
        return self.act_with_logits(image)[0]

    def act_with_logits(self, image: NDArray[Any]) -> tuple[dict[str, NDArray[Any]], FloatArray]:
        """Return the action and its float32 logits (A, V)."""
        logits_AV = self.logits(image)
        return self.action_spec.to_dict(self.action_spec.decode_logits(logits_AV)[1]), logits_AV

    def act_vector(self, image: NDArray[Any]) -> FloatArray:
        """Return the action as float32 (A,), physical units. Raises as :meth:`act` does."""
        return self.action_spec.decode_logits(self.logits(image))[1]


def check_image(image: NDArray[Any]) -> None:
    """Raise ``ValueError`` unless an image is RGB (H, W, 3) with at least one pixel."""
    if image.ndim != 3 or image.shape[-1] != 3 or not image.size:
        raise ValueError(
            f"the image has shape {image.shape}, must be one RGB image (H, W, 3). Repeat a gray image three times, "
            "drop the fourth channel of an RGBA image"
        )


def check_embedding(embedding: FloatArray, width: int, *, vocabulary: int = 0) -> None:
    """Raise ``ValueError`` unless a text embedding is real numbers (width,), finite, and of a sane size.

    With a ``vocabulary``: unless it holds ids of word pieces, whole numbers in 0..vocabulary-1.
    """
    if embedding.dtype.kind not in "fiu":
        raise ValueError(f"the text embedding is {embedding.dtype}, must be real numbers. Give float32")
    if embedding.shape != (width,):
        raise ValueError(
            f"the text embedding has shape {embedding.shape}. This network takes ({width},). Use the encoder it was "
            "trained with"
        )
    if not np.isfinite(embedding).all():
        raise ValueError("the text embedding holds a value that is not finite. Compute it again")
    if (largest := float(np.abs(embedding).max(initial=0.0))) > MAX_EMBEDDING:
        raise ValueError(
            f"the text embedding has an entry of size {largest:g}. At most {MAX_EMBEDDING:g} is sane. Compute it again"
        )
    if vocabulary and not ((embedding >= 0) & (embedding < vocabulary) & (embedding == np.floor(embedding))).all():
        raise ValueError(
            f"the text embedding holds a value that is no id of {vocabulary} word pieces. Use the text encoder the "
            "network was trained with"
        )


def recorded_size(provenance: Mapping[str, Any]) -> tuple[int, int] | None:
    """Return height and width of the images that a policy was trained on. Earlier versions did not store them: None.

    Raises:
        PolicyError: they are no two numbers of pixels.
    """
    size = provenance.get("image_size")
    if size is None:
        return None
    if not isinstance(size, list | tuple) or len(size) != 2 or not all(type(side) is int and side > 0 for side in size):
        raise PolicyError(
            f"the image_size of the policy's data is {size!r:.80}, must be a height and a width. Use another checkpoint"
        )
    return size[0], size[1]
