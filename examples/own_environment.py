"""Your own robot or simulator: an object with these members can be checked, run closed loop, and scored."""

from __future__ import annotations

import numpy as np

from rt1.actions import ActionSpec, Continuous, FloatArray
from rt1.envs.base import Observation, StepResult
from rt1.simulate.controllers import RandomActions
from rt1.simulate.rollout import rollout
from rt1.testing import check_env


class TouchTheSquare:
    """A green dot on a black table is to reach the red square."""

    action_spec = ActionSpec(parts=(Continuous(name="move", low=(-5.0, -5.0), high=(5.0, 5.0)),))  # pixels per step
    instruction = "touch the red square"
    control_rate = 10.0
    max_steps = 40

    def __init__(self) -> None:
        self._dot = self._square = np.full(2, np.nan)
        self._steps = 0

    def reset(self, seed: int) -> Observation:
        self._dot, self._square = np.random.default_rng(seed).uniform(0, 60, (2, 2))
        self._steps = 0
        return self._observe()

    def step(self, action: FloatArray) -> StepResult:
        if np.isnan(self._dot).any():
            raise RuntimeError("call reset(seed) first")
        if self.action_spec.out_of_bounds(action).any():
            raise ValueError(f"the action {action} is out of bounds")
        self._dot = np.clip(self._dot + action, 0, 60)
        self._steps += 1
        success = bool(np.abs(self._dot - self._square).max() < 6)
        return StepResult(observation=self._observe(), success=success, done=success or self._steps == self.max_steps)

    def close(self) -> None: ...

    def _observe(self) -> Observation:
        image = np.zeros((64, 64, 3), dtype=np.uint8)
        for channel, (x, y) in enumerate(np.round([self._square, self._dot]).astype(int)):
            image[y : y + 4, x : x + 4, channel] = 255
        return Observation(image=image)


if __name__ == "__main__":
    check_env(TouchTheSquare)  # says what is not as it should be
    env = TouchTheSquare()
    trials = [rollout(env, RandomActions(env.action_spec, seed), seed=seed) for seed in range(100)]
    print(f"random actions: {sum(trial.success for trial in trials)} of {len(trials)} trials succeeded")
