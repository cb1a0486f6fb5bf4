"""Gymnasium environments: pictures, actions, success, seeds; and what cannot be used is one line."""

from __future__ import annotations

import importlib.util
import sys
import time
from collections.abc import Callable
from contextlib import closing
from typing import Any, ClassVar

import numpy as np
import pytest

from rt1.envs.base import picture_of, snapshot_of
from rt1.envs.gymnasium import GymConfig, GymnasiumEnv, GymSuite, make_gym_env, registered_ids
from rt1.errors import RenderingError
from rt1.simulate.rollout import RandomActions, Replay, rollout
from rt1.testing import check_env, check_suite

gym = pytest.importorskip("gymnasium", reason="Gymnasium is not installed")

SENTENCE = "go to the mark"


class Line(gym.Env):  # type: ignore[misc,name-defined] # it has no types where it is not installed
    """A point on a line that is to reach a mark."""

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["rgb_array"], "render_fps": 10}

    def __init__(self, *, render_mode: str | None = "rgb_array", key: str = "is_success", limit: int = 8) -> None:
        self.render_mode, self._key, self._max_episode_steps = render_mode, key, limit
        self.action_space = gym.spaces.Box(-2.0, 2.0, (1,), np.float64)
        self.observation_space = gym.spaces.Dict({"state": gym.spaces.Box(-9, 9, (2,), np.float32)})
        self.point = self.mark = 0.0
        self.rendered = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed, options=options)
        self.point, self.mark = self.np_random.uniform(0, 15, 2)
        return self._observation(), {}

    def step(self, action: Any) -> Any:
        assert self.action_space.contains(action), action
        self.point += float(action[0])
        success = abs(self.point - self.mark) < 1
        fallen = not 0 <= self.point < 16
        return self._observation(), -1.0, success or fallen, False, {self._key: success} if self._key else {}

    def render(self) -> Any:
        self.rendered += 1
        picture = np.zeros((16, 16, 3), np.uint8)
        picture[:, int(np.clip(self.point, 0, 15)), 0] = picture[:, int(self.mark), 1] = 255
        return picture

    def _observation(self) -> Any:
        return {"state": np.array([self.point, self.mark], np.float32)}


class Pictures(Line):
    """The same with pictures in its observation."""

    def __init__(self, picture: Callable[[Any], Any], space: Any, **options: Any) -> None:
        super().__init__(render_mode=None, **options)
        self._picture = picture
        self.observation_space = space

    def _observation(self) -> Any:
        return self._picture(self.render())


RGB = gym.spaces.Box(0, 255, (16, 16, 3), np.uint8)
CONFIG = GymConfig(sentence=SENTENCE)


def _env(env: Any, **config: Any) -> GymnasiumEnv:
    return GymnasiumEnv(env, GymConfig(sentence=SENTENCE, **config), name="line")


def test_a_rendered_environment_keeps_the_promises_of_ours() -> None:
    check_env(lambda: _env(Line()))
    env = _env(Line())
    assert (env.control_rate, env.max_steps, env.instruction) == (10.0, 8, SENTENCE)
    assert env.action_spec.dimension_names == ("action",)
    assert (env.action_spec.low[0], env.action_spec.high[0]) == (-2.0, 2.0)


def test_success_ends_an_episode_and_failure_and_limit_are_told_apart() -> None:
    env = _env(Line())
    ends = set()
    for seed in range(60):
        env.reset(seed)
        result = env.step(np.ones(1, np.float32))
        while not result.done:
            result = env.step(np.ones(1, np.float32))
        ends.add((result.success, result.truncated, result.done))
    assert ends == {(True, False, True), (False, False, True), (False, True, True)}


def test_a_seed_is_handed_on_and_one_that_is_ignored_is_reported() -> None:
    class Deaf(Line):
        def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
            del seed
            return super().reset(options=options)

    with pytest.raises(ValueError, match=r"same seed.*hand its seed on"):
        check_env(lambda: _env(Deaf()))


@pytest.mark.parametrize("key", ["success", "is_success"])
def test_success_comes_from_info(key: str) -> None:
    env = _env(Line(key=key))
    successes = [rollout(env, RandomActions(env.action_spec, seed), seed=seed).success for seed in range(30)]
    assert 0 < sum(successes) < 30
    assert env.says_success


def test_success_can_be_a_return() -> None:
    env = _env(Line(key=""), success_return=-3.0)
    assert rollout(env, Replay(np.zeros((1, 1), np.float32)), seed=0).success  # the first step's return is -1


def test_a_return_is_summed_up_where_returns_are_measured() -> None:
    env = _env(Line(), max_return=10.0)
    trial = rollout(env, Replay(np.zeros((1, 1), np.float32)), seed=3)
    assert (trial.total_reward, trial.success) == (-float(trial.steps), False)


@pytest.mark.parametrize(
    ("picture", "space", "key"),
    [
        (lambda p: p, RGB, ""),
        (lambda p: {"pixels": p, "agent_pos": np.zeros(2)}, {"pixels": RGB, "depth": RGB}, "pixels"),
        (lambda p: {"pixels": {"top": p}}, {"pixels": gym.spaces.Dict({"top": RGB})}, "pixels.top"),
        (lambda p: {"view": (p / 255).astype(np.float32)}, {"view": gym.spaces.Box(0, 1, (16, 16, 3))}, "view"),
        (lambda p: {"view": p[..., :1]}, {"view": gym.spaces.Box(0, 255, (16, 16, 1), np.uint8)}, "view"),
    ],
)
def test_pictures_of_observations_are_found_and_converted(picture: Any, space: Any, key: str) -> None:
    space = gym.spaces.Dict(space) if isinstance(space, dict) else space
    env = _env(Pictures(picture, space))
    image = env.reset(0).image
    assert env._picture == key
    assert image.shape == (16, 16, 3)
    assert image.dtype == np.uint8
    expected = env._env.render()
    np.testing.assert_array_equal(image[..., 0], expected[..., 0])


def test_a_picture_is_resized_and_named() -> None:
    two = gym.spaces.Dict({"left": RGB, "right": RGB})
    env = _env(Pictures(lambda p: {"left": p, "right": p[:, ::-1]}, two), picture="right", image_size=(8, 12))
    assert env.reset(0).image.shape == (8, 12, 3)


def test_without_rendering_images_are_black_and_drawn_once() -> None:
    line = Line()
    env = GymnasiumEnv(line, CONFIG, render=False)
    images = [env.reset(seed).image for seed in range(3)]
    assert not np.any(images)
    assert line.rendered == 1


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: _env(Line(render_mode=None)), "no picture.*render_mode is None"),
        (lambda: _env(Line(limit=0)), "no step limit.*max_steps"),
        (lambda: _env(Line(), max_steps=9), "max_steps is 9.*at most 8"),
        (lambda: _env(Pictures(dict, gym.spaces.Dict({"a": RGB, "b": RGB}))), "pictures a, b"),
        (lambda: _env(Pictures(lambda p: {"a": p}, RGB), picture="b").reset(0), "'b'.*a"),
        (lambda: _env(Pictures(lambda p: p.astype(np.int64), RGB)).reset(0), "int64.*uint8"),
        (lambda: _env(Pictures(lambda p: p.astype(np.float32), RGB)).reset(0), r"0\.\.255.*0\.\.1"),
        (lambda: _env(Pictures(lambda p: p.transpose(2, 0, 1), RGB)).reset(0), r"\(3, 16, 16\).*Transpose"),
        (lambda: _env(gym.vector.SyncVectorEnv([Line])), "vector environment"),
        (lambda: _env(Line(), kwargs=("obs_type",)), "'obs_type'.*NAME=VALUE"),
        (lambda: _env(Line(), image_size=(3, 9)), "image_size is .*at least 8"),
    ],
)
def test_what_cannot_be_used_is_one_line(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as refusal:
        make()
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("space", "message"),
    [
        (gym.spaces.Dict({"arm": gym.spaces.Box(-1, 1, (2,))}), "Dict actions"),
        (gym.spaces.Box(-np.inf, np.inf, (2,)), "without bounds"),
    ],
)
def test_an_action_space_that_is_no_bounded_box_is_one_line(space: Any, message: str) -> None:
    line = Line()
    line.action_space = space
    with pytest.raises(ValueError, match=message):
        _env(line)


def test_a_choice_starts_where_the_space_does() -> None:
    seen = []

    class Choice(Line):
        def step(self, action: Any) -> Any:
            seen.append(action)
            return {}, 0.0, False, False, {}

    line = Choice()
    line.action_space = gym.spaces.Discrete(3, start=5)
    env = _env(line)
    env.reset(0)
    env.step(np.array([2.0], np.float32))
    assert seen == [7]
    assert env.action_spec.discrete_choices.tolist() == [3]


def test_a_renderer_that_fails_is_one_line() -> None:
    class Broken(Line):
        def render(self) -> Any:
            raise AttributeError("no eglQueryString")

    with pytest.raises(RenderingError, match=r"line cannot render .*eglQueryString.*GL driver"):
        _env(Broken()).reset(0)


def test_what_render_shows_is_the_picture_for_people_and_is_rendered_once() -> None:
    line = Line()
    env = _env(line, image_size=(8, 8))
    env.reset(0)
    picture = picture_of(env, snapshot_of(env))
    assert picture is not None
    assert (line.rendered, picture.shape) == (1, (16, 16, 3))
    env.step(np.ones(1, np.float32))
    later = picture_of(env, snapshot_of(env))
    assert later is not None
    assert not np.array_equal(later, picture)


def test_without_a_working_renderer_there_is_no_picture_for_people_and_one_line_says_so(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Broken(Pictures):
        def render(self) -> Any:
            if self.render_mode:
                raise AttributeError("no eglQueryString")
            return super().render()

    env = Broken(lambda image: image, RGB)
    adapter = _env(env)
    adapter.reset(0)
    assert adapter.snapshot() is None  # its render_mode is None
    env.render_mode = "rgb_array"
    adapter = GymnasiumEnv(env, GymConfig(sentence=SENTENCE), name="line")
    assert [adapter.snapshot(), adapter.snapshot()] == [None, None]
    assert [record.message for record in caplog.records if "no sharp pictures" in record.message] == [
        "line has no sharp pictures: line cannot render (no eglQueryString). Install its GL driver"
    ]


def test_the_instruction_follows_the_environment() -> None:
    line = Line()
    env = GymnasiumEnv(line, name="line")
    assert env.instruction == ""
    line.task_description = "first"
    env.reset(0)
    assert env.instruction == "first"
    line.task_description = "then"
    env.step(np.zeros(1, np.float32))
    assert env.instruction == "then"


@pytest.fixture
def line_id() -> str:
    """The ID of ``Line`` among Gymnasium's."""
    if "rt1-test/Line-v0" not in gym.registry:
        gym.register("rt1-test/Line-v0", entry_point=Line, max_episode_steps=8)
    return "rt1-test/Line-v0"


def test_an_id_is_a_suite_of_one_task(line_id: str) -> None:
    suite = GymSuite(id=line_id, config=GymConfig(sentence=SENTENCE, kwargs=("key=success",)))
    check_suite(suite)
    assert (suite.tasks, suite.image_size, suite.control_rate) == (("Line-v0",), (16, 16), 10.0)
    assert suite.expert("Line-v0") is None
    assert line_id in registered_ids()


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (GymConfig(), "no task_description.*sentence"),
        (GymConfig(sentence=SENTENCE, kwargs=("key=",)), "does not say success.*success_return.*max_return"),
        (GymConfig(sentence=SENTENCE, kwargs=("color=3",)), "refuses the arguments .*'color'"),
    ],
)
def test_a_suite_that_lacks_something_says_what_to_give(line_id: str, config: GymConfig, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GymSuite(id=line_id, config=config).image_size  # noqa: B018


def test_an_unknown_id_and_a_missing_package_are_one_line() -> None:
    with pytest.raises(ValueError, match="CartPole-v77 cannot be made"):
        make_gym_env("CartPole-v77", {})
    with pytest.raises(ModuleNotFoundError, match=r"gym_nowhere, which is not installed.*pip install gym-nowhere"):
        make_gym_env("gym_nowhere/Task-v0", {})


def test_without_gymnasium_the_command_that_installs_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gymnasium", None)
    with pytest.raises(ModuleNotFoundError, match=r"not installed.*pip install 'rt1\[gym\]'"):
        make_gym_env("CartPole-v1", {})


def test_pusht_is_recorded_and_run_by_name() -> None:
    if importlib.util.find_spec("gym_pusht") is None:
        pytest.skip("gym-pusht is not installed")
    suite = GymSuite(
        id="gym_pusht/PushT-v0", config=GymConfig(kwargs=("obs_type=pixels",), sentence="push", max_steps=3)
    )
    check_suite(suite)
    assert (suite.image_size, suite.control_rate) == ((96, 96), 10.0)


def test_aloha_gives_the_picture_under_pixels() -> None:
    if importlib.util.find_spec("gym_aloha") is None:
        pytest.skip("gym-aloha is not installed")
    config = GymConfig(kwargs=("obs_type=pixels_agent_pos",), sentence="insert the peg", image_size=(48, 64))
    env = make_gym_env("gym_aloha/AlohaInsertion-v0", config.arguments)
    try:
        with closing(GymnasiumEnv(env, config, name="aloha")) as adapted:
            assert adapted._picture == "pixels.top"
            try:
                assert adapted.reset(1).image.shape == (48, 64, 3)
            except (RenderingError, AttributeError, ImportError) as error:
                pytest.skip(f"gym-aloha cannot render here: {error}")
            assert not adapted.step(np.zeros(14, np.float32)).success
    finally:
        env.close()


def test_the_adapter_adds_less_than_a_third_of_a_millisecond_to_a_step() -> None:
    line = Line(limit=10_000)
    line.action_space = gym.spaces.Box(-1e-6, 1e-6, (1,), np.float64)
    env = _env(line)
    action = np.zeros(1, np.float32)
    env.reset(6)

    def seconds(step: Callable[[], Any]) -> float:
        begin = time.process_time()
        for _ in range(100):
            step()
        return (time.process_time() - begin) / 100

    def native() -> None:
        line.step(np.zeros(1))
        line.render()

    overhead = min(seconds(lambda: env.step(action)) - seconds(native) for _ in range(5))
    assert overhead < 0.3e-3
