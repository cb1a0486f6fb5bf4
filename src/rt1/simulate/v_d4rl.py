"""Episodes in V-D4RL's 64-pixel layout: one npz file each, a row per image with the action that led to it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from rt1.common.files import replacing
from rt1.envs.base import Env
from rt1.simulate.noise import OrnsteinUhlenbeckNoise
from rt1.simulate.rollout import Controller, within_bounds


def write_v_d4rl_episode(path: Path, env: Env, controller: Controller, *, seed: int, noise: float = 0.0) -> float:
    """Run a controller for one episode, write it, and return its return.

    ``noise`` is added to the executed action, as in :class:`rt1.simulate.record.RecordSettings`. The stored action is
    the controller's own: right for imitation, wrong for learning the environment's dynamics.

    The arrays are ``image`` uint8 (S + 1, H, W, 3), ``action`` float32 (S + 1, A) whose first row is zero, ``reward``,
    ``discount``, ``is_first``, ``is_last`` and ``is_terminal``. ``rt1.data.arrays.npz.NpzSource`` reads them
    with ``ArrayLayout(action_is_previous=True)``.

    Raises:
        SaveError: the file cannot be written.
    """
    observation = env.reset(seed)
    drift = OrnsteinUhlenbeckNoise(env.action_spec, control_rate=env.control_rate, noise=noise, seed=seed)
    controller.reset(env.instruction)
    images, actions, rewards = [observation.image], [np.zeros(env.action_spec.size, dtype=np.float32)], [0.0]
    while True:
        actions.append(within_bounds(env.action_spec, controller.act(observation)))
        result = env.step(drift.apply(actions[-1]))
        observation = result.observation
        images.append(observation.image)
        rewards.append(result.reward)
        if result.done:
            break
    first, last = np.zeros(len(images), dtype=bool), np.zeros(len(images), dtype=bool)
    first[0] = last[-1] = True
    arrays: dict[str, Any] = {
        "image": np.stack(images),
        "action": np.stack(actions),
        "reward": np.array(rewards, dtype=np.float32),
        "discount": np.ones(len(images), dtype=np.float32),
        "is_first": first,
        "is_last": last,
        "is_terminal": last & (not result.truncated),
    }
    with replacing(path) as new_file, new_file.open("wb") as stream:
        np.savez_compressed(stream, **arrays)
    return float(np.sum(rewards))
