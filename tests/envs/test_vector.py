"""Episodes of vector environments: a success is counted exactly once, however environments start again."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from rt1.envs.vector import VectorEpisode, VectorEpisodes

gym = pytest.importorskip("gymnasium", reason="Gymnasium is not installed")


class Countdown(gym.Env):  # type: ignore[misc,name-defined] # it has no types where it is not installed
    """Succeeds in every second episode, at its third step; the others run into the limit of five steps."""

    observation_space = gym.spaces.Box(0, 9, (1,), np.float32)
    action_space = gym.spaces.Discrete(2)

    def __init__(self) -> None:
        self.steps, self.episode = 0, -1

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed, options=options)
        self.steps, self.episode = 0, self.episode + 1
        return np.zeros(1, np.float32), {"is_success": self.episode > 0 and self.episode % 2 == 1}  # a stale flag

    def step(self, action: int) -> Any:
        del action
        self.steps += 1
        success = self.episode % 2 == 0 and self.steps == 3
        observation = np.full(1, self.steps, np.float32)
        return observation, 1.0, success, self.steps == 5, {"is_success": success}


def _run(envs: Any, steps: int, *, reset_by_hand: bool = False) -> list[VectorEpisode]:
    episodes = VectorEpisodes(envs)
    envs.reset(seed=0)
    finished: list[VectorEpisode] = []
    for _ in range(steps):
        _, rewards, terminations, truncations, infos = envs.step(np.zeros(envs.num_envs, int))
        finished += episodes.add(rewards, terminations, truncations, infos)
        ended = terminations | truncations
        if reset_by_hand and ended.any():
            envs.reset(options={"reset_mask": ended})
    envs.close()
    return finished


@pytest.mark.parametrize("mode", ["NEXT_STEP", "SAME_STEP", "DISABLED"])
def test_every_success_is_counted_exactly_once(mode: str) -> None:
    envs = gym.vector.SyncVectorEnv([Countdown] * 3, autoreset_mode=gym.vector.AutoresetMode[mode])
    finished = _run(envs, 19, reset_by_hand=mode == "DISABLED")  # NEXT_STEP spends a step on each reset
    for index in range(3):
        mine = [(e.success, e.truncated, e.steps, e.total_reward) for e in finished if e.index == index]
        assert mine[:4] == [(True, False, 3, 3.0), (False, True, 5, 5.0)] * 2


def test_processes_count_as_one_process_does() -> None:
    in_processes = _run(gym.vector.AsyncVectorEnv([Countdown] * 2), 12)
    assert in_processes == _run(gym.vector.SyncVectorEnv([Countdown] * 2), 12)
    assert [e.success for e in in_processes if e.index == 0] == [True, False]


def test_a_vector_environment_of_an_older_gymnasium_is_refused() -> None:
    envs = gym.vector.SyncVectorEnv([Countdown])
    envs.metadata = {}
    with pytest.raises(ValueError, match="autoreset_mode"):
        VectorEpisodes(envs)
    envs.close()
