"""What an environment offers: images, actions in physical units, success."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from rt1.actions import ActionSpec, FloatArray

Image = NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class Observation:
    """What a policy gets at a step: the image, and nothing of the simulator's state."""

    image: Image
    """uint8 RGB (H, W, 3)."""


@dataclass(frozen=True, kw_only=True)
class StepResult:
    """What an environment returns for one action."""

    observation: Observation
    """The observation after the action."""
    success: bool
    """True once the task's goal is reached; used for counting only, never shown to a policy."""
    done: bool
    """True when the episode is over: success, or the environment's own step limit."""


@runtime_checkable
class Env(Protocol):
    """A robot or simulator with one task. ``rt1.testing.check_env`` checks an implementation."""

    action_spec: ActionSpec
    """The actions that ``step`` takes, float32 (A,) in physical units."""
    instruction: str
    """The sentence that names the task."""
    control_rate: float
    """Steps per second, Hz."""
    max_steps: int
    """Steps after which an episode ends by itself."""

    def reset(self, seed: int) -> Observation:
        """Start an episode; the same seed gives the same start."""
        ...

    def step(self, action: FloatArray) -> StepResult:
        """Apply one action for one control period; a value outside the bounds raises ``ValueError``."""
        ...

    def close(self) -> None:
        """Free the simulator and its renderer."""
        ...
