"""What all policies have in common: from logits to actions. Numpy only, for robots without torch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rt1.actions import ActionSpec, FloatArray

Instruction = str | NDArray[np.float32]
LONGEST_INSTRUCTION = 500
"""Characters of a sentence that comes over a network: text encoders take time and memory for long ones."""


class Acting(ABC):
    """Something with a memory that takes an image and an instruction to action tokens."""

    action_spec: ActionSpec
    """Dimensions, bounds and bins of its actions."""

    @abstractmethod
    def reset(self, instruction: Instruction) -> None:
        """Forget the last episode and take an instruction: a sentence, or its text embedding, float32 (E,)."""

    @abstractmethod
    def logits(self, image: NDArray[Any]) -> FloatArray:
        """Take a new image into the memory and return float32 logits (A, V)."""

    def act(self, image: NDArray[Any]) -> dict[str, NDArray[Any]]:
        """Return the action for a new image.

        Args:
            image: RGB (H, W, 3), uint8 in [0, 255] or float in [0, 1], any size.

        Returns:
            The action by part name, physical units: float32 (n,), one-hot int32 (choices,) for a choice.
        """
        return self.act_with_logits(image)[0]

    def act_with_logits(self, image: NDArray[Any]) -> tuple[dict[str, NDArray[Any]], FloatArray]:
        """Return the action and the float32 logits (A, V) it was taken from, for those who compare."""
        logits_AV = self.logits(image)
        return self.action_spec.to_dict(self.action_spec.decode(logits_AV.argmax(axis=-1))), logits_AV

    def act_vector(self, image: NDArray[Any]) -> FloatArray:
        """Return the action as float32 (A,), physical units."""
        return self.action_spec.decode(self.logits(image).argmax(axis=-1))


def check_embedding(embedding: FloatArray, width: int) -> None:
    """Raise ``ValueError`` unless a text embedding is (width,) and finite."""
    if embedding.shape != (width,):
        raise ValueError(
            f"the text embedding has shape {embedding.shape}; this network takes ({width},); use the encoder it was "
            "trained with"
        )
    if not np.isfinite(embedding).all():
        raise ValueError("the text embedding holds a value that is not finite; compute it again")
