"""The controllers of trials: a policy, and the baselines that a policy must beat."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from rt1.actions import ActionSpec, FloatArray
from rt1.envs.base import Observation
from rt1.policy.base import BasePolicy


class PolicyController:
    """A policy; it sees the image and the instruction."""

    def __init__(self, policy: BasePolicy) -> None:
        self._policy = policy

    def reset(self, instruction: str) -> None:
        self._policy.reset(instruction)

    def act(self, observation: Observation) -> FloatArray:
        return self._policy.act_vector(observation.image)


class Replay:
    """Open-loop replay of another episode's actions; the last one is held when they run out."""

    def __init__(self, actions: FloatArray) -> None:
        self._actions, self._step = actions, 0

    def reset(self, instruction: str) -> None:  # noqa: ARG002 (blind to the instruction, too)
        self._step = 0

    def act(self, observation: Observation) -> FloatArray:  # noqa: ARG002
        action = self._actions[min(self._step, len(self._actions) - 1)]
        self._step += 1
        return action


class RandomActions:
    """Actions drawn uniformly within the bounds."""

    def __init__(self, spec: ActionSpec, seed: int) -> None:
        self._spec, self._random = spec, np.random.default_rng((seed, 4))

    def reset(self, instruction: str) -> None:
        """Nothing to forget."""

    def act(self, observation: Observation) -> FloatArray:  # noqa: ARG002
        return self._random.uniform(self._spec.low, self._spec.high).astype(np.float32)


class Expert:
    """The environment's scripted expert, which sees the simulator's state: the ceiling."""

    def __init__(self, expert_action: Callable[[], FloatArray]) -> None:
        self._expert_action = expert_action

    def reset(self, instruction: str) -> None:
        """Nothing to forget."""

    def act(self, observation: Observation) -> FloatArray:  # noqa: ARG002
        return self._expert_action()
