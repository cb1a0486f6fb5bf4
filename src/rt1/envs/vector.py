"""Episodes of a Gymnasium vector environment, each counted exactly once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rt1.envs.gymnasium import SUCCESS_KEYS


@dataclass(frozen=True, kw_only=True)
class VectorEpisode:
    """One finished episode of a vector environment."""

    index: int  # of the environment
    success: bool
    total_reward: float  # the return
    steps: int
    truncated: bool  # a step limit ended it, not the task


class VectorEpisodes:
    """Collects the finished episodes of a ``gymnasium.vector.VectorEnv`` (Gymnasium 1.1 or newer) step by step.

    It knows the three ways in which environments start again: in the next step, whose reward and ``info`` belong to no
    episode, in the same step, whose ``info`` is that of the new episode, and by the caller's reset. An episode with
    success at any step is a success::

        episodes = VectorEpisodes(envs)
        observation, _ = envs.reset(seed=0)
        while len(finished) < 100:
            observation, *results = envs.step(policy(observation))
            finished += episodes.add(*results)
    """

    def __init__(self, envs: Any) -> None:
        """Begin before the first step.

        Raises:
            ValueError: a vector environment that does not say how it starts again.
        """
        mode = envs.metadata.get("autoreset_mode")
        if mode is None:
            raise ValueError("the vector environment has no autoreset_mode in its metadata. Use Gymnasium 1.1 or newer")
        self._mode = str(getattr(mode, "name", mode)).upper()
        count = envs.num_envs
        self._rewards, self._steps = np.zeros(count), np.zeros(count, dtype=np.int64)
        self._success, self._resetting = np.zeros(count, dtype=bool), np.zeros(count, dtype=bool)

    def add(
        self,
        rewards: NDArray[Any],
        terminations: NDArray[np.bool_],
        truncations: NDArray[np.bool_],
        infos: Mapping[str, Any],
    ) -> list[VectorEpisode]:
        """Add what ``step`` returned after the observation, and return the episodes that ended with it."""
        acted = ~self._resetting
        self._rewards[acted] += np.asarray(rewards)[acted]
        self._steps[acted] += 1
        ended = (np.asarray(terminations) | np.asarray(truncations)) & acted
        now = _successes(infos, len(acted))
        if self._mode == "SAME_STEP":  # an ended episode's info has moved
            final = _successes(infos.get("final_info", {}), len(acted))
            now = np.where(ended, final, now)
        self._success |= now & acted
        episodes = [
            VectorEpisode(
                index=int(index),
                success=bool(self._success[index]),
                total_reward=float(self._rewards[index]),
                steps=int(self._steps[index]),
                truncated=bool(truncations[index] and not terminations[index]),
            )
            for index in np.flatnonzero(ended)
        ]
        self._rewards[ended], self._steps[ended], self._success[ended] = 0.0, 0, False
        # With NEXT_STEP the next step of an ended environment is its reset.
        self._resetting = ended if self._mode == "NEXT_STEP" else np.zeros_like(ended)
        return episodes


def _successes(infos: Mapping[str, Any], count: int) -> NDArray[np.bool_]:
    """Return which environments report success. ``info`` may lack it, and a mask says who gave it."""
    successes = np.zeros(count, dtype=bool)
    for key in SUCCESS_KEYS:
        if key in infos:
            mask = np.asarray(infos.get(f"_{key}", np.ones(count, dtype=bool)))
            successes |= np.asarray(infos[key]).astype(bool) & mask
    return successes
