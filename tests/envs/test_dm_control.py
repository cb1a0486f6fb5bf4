"""DeepMind Control from pixels: V-D4RL's setting, returns in place of success, and experts of a few layers."""

from __future__ import annotations

import pickle
import sys
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from rt1.data.arrays.base import ArrayLayout
from rt1.data.arrays.npz import NpzSource
from rt1.envs.base import max_return
from rt1.envs.dm_control import DMControlConfig, DMControlEnv, DMControlSuite, NetworkExpert, score
from rt1.errors import DataError
from rt1.simulate.rollout import RandomActions, Replay, check_actions_fit, rollout
from rt1.simulate.v_d4rl import write_v_d4rl_episode
from rt1.testing import check_env

pytest.importorskip("dm_control", reason="DeepMind Control is not installed")

FAST = DMControlConfig(action_repeat=100)
"""Ten decisions an episode."""


def test_it_keeps_the_promises_of_an_environment() -> None:
    check_env(lambda: DMControlEnv("cartpole-swingup", FAST, render=False), one_start=True)  # black images


def test_the_setting_is_that_of_v_d4rl(gl: str) -> None:
    assert gl
    suite = DMControlSuite(task="walker-walk")
    assert (suite.tasks, suite.image_size, suite.control_rate) == (("walker-walk",), (84, 84), 20.0)
    assert (max_return(suite), suite.sentences("walker-walk")) == (1000.0, ("make the walker walk",))
    with closing(suite.open("walker-walk")) as env:
        assert env.max_steps == 500
        first, other = env.reset(0).image, env.reset(1).image
        assert first.shape == (84, 84, 3)
        assert first.dtype == np.uint8
        assert not np.array_equal(first, other)
        np.testing.assert_array_equal(env.reset(0).image, first)
    with closing(DMControlSuite(task="cheetah-run", config=DMControlConfig(image_size=64)).open("cheetah-run")) as env:
        assert env.reset(0).image.shape == (64, 64, 3)


def test_an_episode_ends_at_its_limit_with_a_return_and_without_success() -> None:
    with closing(DMControlEnv("cartpole-balance", FAST, render=False)) as env:
        trial = rollout(env, Replay(np.zeros((1, 1), np.float32)), seed=0)
        again = rollout(env, Replay(np.zeros((1, 1), np.float32)), seed=0)
        moved = rollout(env, RandomActions(env.action_spec, 0), seed=0)
        env.reset(0)
        assert [env.step(np.zeros(1, np.float32)).truncated for _ in range(10)] == [False] * 9 + [True]
    assert (trial.success, trial.steps) == (False, 10)
    assert 100 < trial.total_reward < 1000  # up to 1 per native step
    assert again.total_reward == trial.total_reward != moved.total_reward
    assert score(1000.0) == 100.0


def test_a_policy_of_v_d4rl_s_episodes_fits_the_environment(tmp_path: Path) -> None:
    with closing(DMControlEnv("cartpole-balance", FAST, render=False)) as env:
        write_v_d4rl_episode(tmp_path / "0.npz", env, RandomActions(env.action_spec, 0), seed=0)
        source = NpzSource(tmp_path, layout=ArrayLayout(instruction="balance", action_is_previous=True))
        check_actions_fit(source.action_spec, env.action_spec)
        assert env.action_spec.dimension_names == ("action",)


def test_a_domain_is_a_suite_of_all_its_tasks() -> None:
    assert DMControlSuite(task="walker").tasks == ("walker-stand", "walker-walk", "walker-run")
    with pytest.raises(ValueError, match=r"'walker-wlak'.*'walker-walk'"):
        DMControlSuite(task="walker-wlak").tasks  # noqa: B018


@pytest.fixture
def experts(tmp_path: Path) -> Path:
    """A folder with an expert of cartpole-swingup whose action depends on its state alone."""
    rng = np.random.default_rng(0)
    layers = [(rng.normal(size=(6, 5)), rng.normal(size=6)), (rng.normal(size=(1, 6)), np.zeros(1))]
    tensors = {f"{n}.weight": weight.astype(np.float32) for n, (weight, _) in enumerate(layers)}
    tensors |= {f"{n}.bias": bias.astype(np.float32) for n, (_, bias) in enumerate(layers)}
    save_file(tensors, tmp_path / "cartpole-swingup.safetensors")
    return tmp_path


def test_an_expert_is_found_by_its_task_and_acts_on_the_state(experts: Path) -> None:
    suite = DMControlSuite(task="cartpole-swingup", config=DMControlConfig(action_repeat=100, experts=str(experts)))
    expert = suite.expert("cartpole-swingup")
    assert expert is not None
    assert suite.expert("cartpole-balance") is None
    assert DMControlSuite(task="cartpole-swingup").expert("cartpole-swingup") is None
    with closing(suite.open("cartpole-swingup", render=False)) as env:
        env.reset(0)
        first = expert(env)
        assert first.dtype == np.float32
        assert first.shape == (1,)
        np.testing.assert_array_equal(pickle.loads(pickle.dumps(expert))(env), first)
        env.reset(1)
        assert not np.array_equal(expert(env), first)


def test_an_expert_that_is_damaged_or_of_another_task_is_one_line(experts: Path) -> None:
    expert = NetworkExpert(experts / "cartpole-swingup.safetensors")
    with closing(DMControlEnv("walker-walk", FAST, render=False)) as env:
        env.reset(0)
        with pytest.raises(DataError, match=r"state of 5 numbers, walker-walk has 24"):
            expert(env)
    broken = experts / "broken.safetensors"
    broken.write_bytes(b"no tensors")
    with pytest.raises(DataError, match=r"broken.safetensors is damaged"):
        NetworkExpert(broken)
    save_file({"0.weight": np.ones((2, 3), np.float32), "0.bias": np.ones(4, np.float32)}, broken)
    with pytest.raises(DataError, match=r"broken.safetensors"):
        NetworkExpert(broken)


def test_a_missing_folder_of_experts_is_one_line(tmp_path: Path) -> None:
    config = DMControlConfig(experts=str(tmp_path / "nowhere"))
    with pytest.raises(ValueError, match=r"nowhere, which is no folder.*--experts"):
        DMControlSuite(task="walker-walk", config=config).expert("walker-walk")


def test_a_missing_package_is_one_line_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "dm_control", None)
    with pytest.raises(ModuleNotFoundError, match=r"not installed.*pip install 'rt1\[dm_control\]'"):
        DMControlEnv("walker-walk", render=False)


def test_settings_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match="image_size is 4"):
        DMControlConfig(image_size=4)
    with pytest.raises(ValueError, match="action_repeat is 0"):
        DMControlConfig(action_repeat=0)


def test_pictures_for_people_are_large_and_change_nothing(gl: str) -> None:
    assert gl
    with closing(DMControlEnv("ball_in_cup-catch", DMControlConfig(image_size=16))) as env:
        env.reset(1)
        action = env.action_spec.high
        plain = env.step(action).observation.image
        env.reset(1)
        first = env.snapshot()
        live = env.picture(first, 64)
        np.testing.assert_array_equal(env.step(action).observation.image, plain)
        assert live.shape == (64, 64, 3)
        np.testing.assert_array_equal(env.picture(first, 64), live)
