"""Ornstein-Uhlenbeck noise on actions: it moves the robot off its path, so that recordings show the way back."""

from __future__ import annotations

import math

import numpy as np

from rt1.actions import ActionSpec, FloatArray

SECONDS = 0.224
"""Time constant of the noise, seconds."""


class OrnsteinUhlenbeckNoise:
    """The noise of one episode, a function of its seed."""

    def __init__(self, spec: ActionSpec, *, control_rate: float, noise: float, seed: int) -> None:
        """Draw the strength of the noise.

        ``noise`` is its largest standard deviation as a fraction of half the action range. The episode draws its own
        between 0 and this. ``control_rate`` is in Hz.
        """
        self._random = np.random.default_rng((seed, 1))
        self._deviation = noise * self._random.uniform()
        self._decay = math.exp(-1.0 / (control_rate * SECONDS))
        self.spec = spec
        self._steady = np.array(["gripper" in name for name in spec.dimension_names]) | (spec.discrete_choices > 0)
        self._drift = self._random.normal(0.0, 1.0, spec.size)

    def apply(self, action: FloatArray) -> FloatArray:
        """Return the action to execute, float32 (A,), within the bounds."""
        decay, new = self._decay, self._random.normal(0.0, 1.0, action.size)
        self._drift = decay * self._drift + math.sqrt(1.0 - decay**2) * new
        # A gripper gets no noise: opening it for one step drops what it holds, and no expert recovers from that.
        # A choice gets none either: it has no value between two others.
        self._drift[self._steady] = 0.0
        moved = action + self._drift * self._deviation * (self.spec.high - self.spec.low) / 2
        return np.clip(moved, self.spec.low, self.spec.high).astype(np.float32)
