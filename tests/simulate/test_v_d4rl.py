"""Episodes in V-D4RL's layout read back as they were acted."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from rt1.data.arrays.base import ArrayLayout
from rt1.data.arrays.npz import NpzSource
from rt1.simulate.rollout import Expert, Replay
from rt1.simulate.v_d4rl import write_v_d4rl_episode
from rt1.testing import check_source


def test_an_episode_reads_back_as_it_was_acted(make_env: Callable[..., Any], tmp_path: Path) -> None:
    env = make_env()
    total = write_v_d4rl_episode(tmp_path / "000.npz", env, Expert(env.expert_action), seed=8)
    source = NpzSource(tmp_path, layout=ArrayLayout(instruction="reach", action_is_previous=True))
    check_source(source)
    np.testing.assert_array_equal(source.actions(0, 0, int(source.lengths[0])), env.executed)
    np.testing.assert_array_equal(source.images(0, 0, 1)[0], env.reset(8).image)
    with np.load(tmp_path / "000.npz") as arrays:
        assert arrays["image"].shape == (len(env.executed) or int(source.lengths[0]) + 1, 16, 16, 3)
        assert not arrays["action"][0].any()
        assert [bool(arrays[flag][-1]) for flag in ("is_first", "is_last", "is_terminal")] == [False, True, True]
    assert total == 0.0  # this environment gives no reward


def test_noise_changes_the_executed_actions_and_the_controllers_own_are_stored(
    make_env: Callable[..., Any], tmp_path: Path
) -> None:
    env = make_env()
    controller = Replay(np.array([[0.5, -0.25, 0.0]], dtype=np.float32))
    write_v_d4rl_episode(tmp_path / "000.npz", env, controller, seed=8, noise=1.0)
    with np.load(tmp_path / "000.npz") as arrays:
        assert (arrays["action"][1:] == np.array([0.5, -0.25, 0.0], np.float32)).all()
    assert len(np.unique(env.executed, axis=0)) == len(env.executed) > 1
