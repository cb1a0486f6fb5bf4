"""What runs the network of a policy, and how a user names it. No torch.

Shape letters: S robots in one call, H height, W width, E text or token width, T images, K tokens per image,
P positions, A action dimensions, V bins.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rt1.actions import FloatArray
from rt1.common.suggest import lookup
from rt1.policy.exported_image import prepare_image
from rt1.policy.exported_manifest import Precision, Sizes

PRECISIONS: Mapping[str, tuple[Precision, ...]] = {
    "torch": ("fp32", "bf16"),
    "onnx": ("fp32", "int8"),
    "openvino": ("fp32", "bf16"),
}
"""Engine -> precisions that it computes in, its default first."""
AUTO = "auto"


class EngineChoice(NamedTuple):
    """An engine and its precision."""

    name: str
    precision: Precision

    def __str__(self) -> str:
        return self.name if self.precision == "fp32" else f"{self.name}:{self.precision}"


CHOICES = tuple(EngineChoice(name, precision) for name, precisions in PRECISIONS.items() for precision in precisions)
"""Every engine in every precision."""


def engine_choice(text: str) -> EngineChoice:
    """Return the choice that ``torch``, ``torch:bf16``, ``onnx``, ``onnx:int8`` and so on name.

    Raises:
        ValueError: an unknown name, or a precision that the engine does not have.
    """
    name, _, precision = text.partition(":")
    precisions = lookup("engine", name, {**PRECISIONS, AUTO: ()})
    precision = precision or "fp32"
    if precision not in precisions:
        names = ", ".join(map(str, (choice for choice in CHOICES if choice.name == name))) or AUTO
        raise ValueError(f"the engine is {text!r}, {name} has no precision {precision!r}. Use one of: {names}")
    return EngineChoice(name, precision)


class Engine(ABC):
    """A network that takes steps of any number of robots at once. It holds no episode."""

    name: str
    """Its library: ``torch``, ``onnx`` and so on."""
    precision: Precision
    """Numbers that it computes in."""
    sizes: Sizes
    """Sizes of the network."""

    @property
    def label(self) -> str:
        """Its name as the user gives it."""
        return str(EngineChoice(self.name, self.precision))

    def prepare(self, image: NDArray[Any]) -> FloatArray:
        """Return an RGB image (H, W, 3) as the network's input, float32 in [0, 1]. Several threads may call this."""
        return prepare_image(image, self.sizes.image_size)

    @abstractmethod
    def condition(self, text_SE: FloatArray, *, dropped: bool) -> FloatArray:
        """Return what the network makes of text embeddings once an episode, float32 (S, ...).

        ``dropped`` puts the learned null in the place of the text. Several threads may call this.
        """

    @abstractmethod
    def encode(self, image_SHWC: FloatArray, condition: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Turn prepared images into image tokens (S, K, E) and TokenLearner's maps (S, K, P), float32."""

    @abstractmethod
    def decode(self, token_STKE: FloatArray, step_S: NDArray[np.int64], condition: FloatArray) -> FloatArray:
        """Return float32 logits (S, A, V) of each robot's step. Image tokens after the step are ignored."""


def full_window(token_STKE: FloatArray, window: int) -> FloatArray:
    """Return image tokens with zeros up to the length of the window."""
    missing = window - token_STKE.shape[1]
    return np.pad(token_STKE, ((0, 0), (0, missing), (0, 0), (0, 0))) if missing else token_STKE
