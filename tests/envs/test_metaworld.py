"""Meta-World: physics everywhere, pictures where there is a GL library."""

from __future__ import annotations

import dataclasses
import os
import pickle
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import numpy as np
import pytest

from rt1.envs.base import Image, Observation, open_batch
from rt1.envs.metaworld import CAMERAS, MetaWorldConfig, MetaWorldEnv, MetaWorldSuite, check_task
from rt1.envs.metaworld_tasks import INSTRUCTIONS
from rt1.simulate.rollout import Expert, Replay, rollout
from rt1.testing import check_env

pytest.importorskip("metaworld", reason="Meta-World is not installed")

STILL = np.zeros((1, 4), dtype=np.float32)
SMALL = MetaWorldConfig(image_size=16, control_rate=4.0)


@pytest.fixture
def reach() -> Iterator[MetaWorldEnv]:
    env = MetaWorldEnv(task="reach", render=False)
    yield env
    env.close()


def _first_image(task: str, seed: int, config: MetaWorldConfig = SMALL) -> Image:
    env = MetaWorldEnv(task=task, config=config)
    try:
        return env.reset(seed).image
    finally:
        env.close()


def test_it_keeps_the_promises_of_an_environment() -> None:
    check_env(lambda: MetaWorldEnv(task="reach", config=SMALL, render=False), one_start=True)  # black images


def test_it_keeps_them_with_pictures(gl: str) -> None:
    assert gl
    check_env(lambda: MetaWorldEnv(task="faucet-open", config=SMALL))


@pytest.mark.slow
@pytest.mark.parametrize("task", INSTRUCTIONS)
def test_every_task_opens_with_its_expert_and_instruction(task: str) -> None:
    env = MetaWorldEnv(task=task, render=False)
    try:
        assert env.instruction == INSTRUCTIONS[task][0]
        env.reset(1)
        action = env.expert_action()
        assert not env.action_spec.out_of_bounds(action).any()
        assert not env.step(action).done
    finally:
        env.close()


def test_the_expert_solves_its_task(reach: MetaWorldEnv) -> None:
    trials = [rollout(reach, Expert(reach.expert_action), seed=seed) for seed in range(5)]
    assert sum(trial.success for trial in trials) >= 4
    assert all(trial.steps < reach.max_steps for trial in trials if trial.success)


def test_standing_still_ends_at_the_step_limit_without_success(reach: MetaWorldEnv) -> None:
    result = rollout(reach, Replay(STILL), seed=0)
    assert (result.success, result.steps, result.steps / reach.control_rate) == (False, 125, 500 / 80)


def test_an_episode_depends_on_its_seed_alone() -> None:
    # Meta-World leaves bodies where an earlier episode moved them; this task's goal hangs on such a body.
    fresh = MetaWorldEnv(task="door-unlock", render=False)
    alone = rollout(fresh, Expert(fresh.expert_action), seed=7)
    used = MetaWorldEnv(task="door-unlock", render=False)
    for seed in (1, 2):
        rollout(used, Expert(used.expert_action), seed=seed)
    np.testing.assert_array_equal(rollout(used, Expert(used.expert_action), seed=7).actions, alone.actions)


def test_seeds_place_the_goal(reach: MetaWorldEnv) -> None:
    actions = []
    for seed in (0, 1, 2**40):
        reach.reset(seed)
        actions.append(reach.expert_action().tolist())
    assert actions[0] != actions[1] != actions[2]


@pytest.mark.parametrize(("rate", "hold", "steps"), [(80.0, 1, 500), (20.0, 4, 125), (16.0, 5, 100), (1.0, 80, 6)])
def test_the_control_rate_decides_how_long_an_action_is_held(rate: float, hold: int, steps: int) -> None:
    env = MetaWorldEnv(task="reach", config=MetaWorldConfig(control_rate=rate), render=False)
    assert (env.config.hold, env.max_steps, env.control_rate) == (hold, steps, 80 / hold)
    assert rollout(env, Replay(STILL), seed=0).steps == steps


def test_a_step_before_the_reset_says_what_to_call(reach: MetaWorldEnv) -> None:
    with pytest.raises(RuntimeError, match=r"Call reset\(seed\) first"):
        reach.step(STILL[0])


def test_an_action_outside_the_bounds_is_refused(reach: MetaWorldEnv) -> None:
    reach.reset(0)
    with pytest.raises(ValueError, match=r"hand_y = 1.5 .*-1..1.*Clip"):
        reach.step(np.array([0.0, 1.5, 0.0, 0.0], np.float32))


def test_a_negative_seed_is_refused(reach: MetaWorldEnv) -> None:
    with pytest.raises(ValueError, match="seed is -1, must be 0 or more"):
        reach.reset(-1)


def test_an_unknown_task_is_refused_with_the_one_that_was_meant() -> None:
    assert check_task("faucet-open-v3") == check_task("faucet-open") == "faucet-open-v3"
    with pytest.raises(ValueError, match="unknown Meta-World task 'faucet-opne', did you mean 'faucet-open'"):
        MetaWorldEnv(task="faucet-opne", render=False)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"camera": "corner22"}, "unknown camera 'corner22', did you mean 'corner2'"),
        ({"image_size": 4}, "image_size is 4, must be at least 8"),
        ({"supersample": 5}, "supersample is 5, must be at most 4"),
        ({"control_rate": 100.0}, "control_rate is 100.0, must be at most 80"),
        ({"control_rate": float("nan")}, "control_rate is nan"),
        ({"crop": (0.5, 0.2, 0.6)}, r"crop is \[0.5, 0.2, 0.6\], must be"),
        ({"crop": (0.0, 0.0, float("nan"))}, "crop is"),
    ],
)
def test_settings_out_of_range_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MetaWorldConfig(**change)


def test_pictures_follow_from_the_seed(gl: str) -> None:
    assert gl
    config = dataclasses.replace(SMALL, image_size=48)
    one, again, other = (_first_image("door-unlock", seed, config) for seed in (0, 0, 1))
    assert one.shape == (48, 48, 3)
    assert one.dtype == np.uint8
    np.testing.assert_array_equal(one, again)
    assert not np.array_equal(one, other)


@pytest.mark.parametrize(("task", "shown"), [("faucet-open", False), ("faucet-close", False), ("reach", True)])
def test_the_goal_marker_is_hidden_where_it_would_tell_two_tasks_apart(gl: str, task: str, *, shown: bool) -> None:
    assert gl
    env = MetaWorldEnv(task=task, config=dataclasses.replace(SMALL, image_size=64))
    try:
        before = env.reset(3).image
        env._sim.data.site_xpos[:] = 10.0  # out of sight
        assert np.array_equal(env._observe().image, before) != shown
    finally:
        env.close()


@pytest.mark.parametrize("task", ["door-unlock", "basketball", "stick-pull"])
def test_a_picture_is_drawn_when_it_is_read_and_is_the_same_whenever_that_is(gl: str, task: str) -> None:
    assert gl
    with closing(MetaWorldEnv(task=task, config=SMALL)) as env:

        def episode(seed: int) -> Iterator[Observation]:
            yield env.reset(seed)
            yield from (env.step(env.expert_action()).observation for _ in range(8))

        at_once = [observation.image for observation in episode(5)]
        observations = list(episode(5))
        list(episode(6))  # another episode moves everything
        assert not any("image" in vars(observation) for observation in observations)
        for image, observation in zip(at_once, observations, strict=True):
            np.testing.assert_array_equal(observation.image, image)
            assert observation.image is observation.image


def test_the_picture_stands_upright(gl: str) -> None:
    assert gl
    image = _first_image("reach", 0, dataclasses.replace(SMALL, image_size=64)).astype(float)
    table = image[-8:].mean(axis=(0, 1))
    wall = image[:8].mean(axis=(0, 1))
    assert table[0] > table[2] + 20  # the wooden table lies below, and is brown
    assert abs(wall[0] - wall[2]) < 20


def test_a_crop_is_that_part_of_the_whole_picture(gl: str) -> None:
    assert gl
    whole = _first_image("reach", 0, dataclasses.replace(SMALL, image_size=64, supersample=2))
    part = _first_image("reach", 0, dataclasses.replace(SMALL, image_size=48, supersample=2, crop=(0.125, 0.25, 0.75)))
    np.testing.assert_array_equal(part, whole[8:56, 16:])


@pytest.mark.parametrize("camera", ["topview", "gripperPOV"])
def test_each_camera_shows_something_else(gl: str, camera: str) -> None:
    assert gl
    config = dataclasses.replace(SMALL, image_size=32)
    assert camera in CAMERAS
    usual, other = (_first_image("reach", 0, dataclasses.replace(config, camera=name)) for name in ("corner2", camera))
    assert other.std() > 0
    assert not np.array_equal(usual, other)


def test_supersampling_averages_squares_of_a_larger_picture(gl: str) -> None:
    assert gl
    smooth = _first_image("reach", 0, dataclasses.replace(SMALL, image_size=24, supersample=2))
    large = _first_image("reach", 0, dataclasses.replace(SMALL, image_size=48))
    means = large.reshape(24, 2, 24, 2, 3).mean(axis=(1, 3))
    assert smooth.dtype == np.uint8
    np.testing.assert_array_equal(smooth, np.floor(means + 0.5))


def test_metaworlds_own_look_differs_from_the_fast_one(gl: str) -> None:
    assert gl
    config = dataclasses.replace(SMALL, image_size=48)
    fast, slow = (_first_image("reach", 0, dataclasses.replace(config, fast_render=fast)) for fast in (True, False))
    assert not np.array_equal(fast, slow)


@pytest.mark.parametrize("backend", ["glfw", "nonsense"])
def test_a_gl_backend_that_is_not_there_is_one_line(backend: str) -> None:
    """In a process of its own, since MuJoCo reads the variable once."""
    code = (
        "from rt1.envs.metaworld import MetaWorldEnv; from rt1.errors import RenderingError\n"
        "try: MetaWorldEnv(task='reach')\nexcept RenderingError as error: print(error)"
    )
    environment = {name: value for name, value in os.environ.items() if name not in ("DISPLAY", "WAYLAND_DISPLAY")}
    ended = subprocess.run(
        [sys.executable, "-c", code],
        env={**environment, "MUJOCO_GL": backend},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.stderr == ""
    assert re.fullmatch(f".*MUJOCO_GL={backend} .*apt-get.*\n", ended.stdout)


def test_a_missing_metaworld_is_one_line_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "metaworld", None)
    with pytest.raises(ModuleNotFoundError, match=r"Meta-World is not installed. Run: pip install 'rt1\[metaworld\]'"):
        MetaWorldEnv(task="reach", render=False)


def test_tasks_that_share_a_scene_name_each_other() -> None:
    suite = MetaWorldSuite()
    assert suite.same_scene_task("faucet-open") == "faucet-close-v3"
    assert suite.same_scene_task("faucet-close-v3") == "faucet-open-v3"
    assert suite.same_scene_task("reach") is None


def test_a_suite_opens_a_task_with_its_settings() -> None:
    suite = MetaWorldSuite(config=MetaWorldConfig(image_size=24, control_rate=30.0))
    with closing(suite.open("reach", render=False)) as env:
        assert env.control_rate == suite.control_rate == 80 / 3  # a whole number of the simulator's steps
        assert (env.task, env.max_steps) == ("reach-v3", 166)
        np.testing.assert_array_equal(env.reset(0).image, np.zeros((*suite.image_size, 3), np.uint8))
        np.testing.assert_array_equal(suite.expert("reach")(env), env.expert_action())


def test_a_batch_shares_one_renderer_and_draws_what_each_environment_alone_draws(gl: str) -> None:
    assert gl
    suite = MetaWorldSuite(config=MetaWorldConfig(image_size=32))
    seeds = (1, 3)
    alone = []
    for seed in seeds:
        env = suite.open("drawer-open")
        alone.append([env.reset(seed).image, env.step(np.ones(4, np.float32)).observation.image])
        env.close()
    batch = open_batch(suite, "drawer-open", len(seeds))
    first = [member.reset(seed) for member, seed in zip(batch, seeds, strict=True)]
    second = [member.step(np.ones(4, np.float32)).observation for member in batch]
    images = [[one.image, two.image] for one, two in zip(first, second, strict=True)]
    for member in reversed(batch):
        member.close()
    np.testing.assert_array_equal(images, alone)


@pytest.mark.parametrize(("rate", "limit"), [(80.0, 500), (20.0, 125)])
def test_a_step_limit_beyond_meta_worlds_own_is_refused(rate: float, limit: int) -> None:
    assert MetaWorldConfig(control_rate=rate, max_steps=limit).max_steps == limit
    with pytest.raises(ValueError, match=f"max_steps is {limit + 1}, .*{limit}"):
        MetaWorldConfig(control_rate=rate, max_steps=limit + 1)


def test_the_default_step_limit_is_not_stored_as_in_earlier_recordings() -> None:
    assert "max_steps" not in MetaWorldSuite().settings
    assert MetaWorldSuite(config=MetaWorldConfig(max_steps=9)).settings["max_steps"] == 9


def test_pictures_for_people_are_large_and_change_nothing_whenever_they_are_drawn(gl: str) -> None:
    assert gl
    config = MetaWorldConfig(image_size=16, control_rate=4.0, crop=(0.2, 0.2, 0.5))
    with closing(MetaWorldEnv(task="faucet-open", config=config)) as env:
        env.reset(1)
        plain = env.step(np.ones(4, np.float32)).observation.image
        env.reset(1)
        first = env.snapshot()
        live = env.picture(first, 120)
        watched = env.step(np.ones(4, np.float32)).observation.image
        np.testing.assert_array_equal(watched, plain)
        assert live.shape == (120, 120, 3)
        np.testing.assert_array_equal(env.picture(first, 120), live)
        assert not np.array_equal(env.picture(env.snapshot(), 120), live)
    with closing(MetaWorldEnv(task="faucet-open", config=config, render=False)) as later:
        later.reset(1)
        np.testing.assert_array_equal(later.picture(pickle.loads(pickle.dumps(first)), 120), live)
