"""One trial: what the controller is given, what the environment executes, what is counted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rt1.actions import FloatArray, rt1_action_spec
from rt1.envs.base import Env, Observation
from rt1.model.rt1 import RT1
from rt1.policy.policy import Policy
from rt1.simulate.rollout import Expert, PolicyController, RandomActions, Replay, rollout
from rt1.text.encoder import TableEncoder

BLACK = Observation(image=np.zeros((16, 16, 3), dtype=np.uint8))


class Constant:
    """Gives one action and notes what it is given."""

    def __init__(self, *action: float) -> None:
        self.action = np.array(action, dtype=np.float32)
        self.instructions: list[str] = []
        self.observations: list[Observation] = []

    def reset(self, instruction: str) -> None:
        self.instructions.append(instruction)

    def act(self, observation: Observation) -> FloatArray:
        self.observations.append(observation)
        return self.action


def test_an_expert_reaches_the_goal_and_the_episode_ends_there(make_env: Callable[..., Any]) -> None:
    env = make_env()
    result = rollout(env, Expert(env.expert_action), seed=3)
    assert result.success
    assert 0 < result.steps < env.max_steps
    assert result.actions.shape == (result.steps, 3)
    assert result.actions.dtype == np.float32
    assert (result.clipped, result.images) == (0, ())


def test_an_episode_without_success_ends_at_the_step_limit(make_env: Callable[..., Any]) -> None:
    result = rollout(make_env(max_steps=5), Constant(0.0, 0.0, 0.0), seed=3)
    assert (result.success, result.steps) == (False, 5)


def test_values_outside_the_bounds_are_clipped_before_the_environment_gets_them_and_counted(
    make_env: Callable[..., Any],
) -> None:
    env = make_env(max_steps=4)
    result = rollout(env, Constant(-3.0, 1.0, np.inf), seed=0)
    assert result.clipped == 2 * 4
    np.testing.assert_array_equal(result.actions, np.tile([-1, 1, 1], (4, 1)))
    np.testing.assert_array_equal(env.executed, result.actions)


@pytest.mark.parametrize(("action", "message"), [((0.0, np.nan, 0.0), "NaN in .*move_1"), ((0.0, 0.0), "must be 3")])
def test_an_action_that_is_none_is_refused(
    make_env: Callable[..., Any], action: tuple[float, ...], message: str
) -> None:
    env = make_env()
    with pytest.raises(ValueError, match=message):
        rollout(env, Constant(*action), seed=0)
    assert env.executed == []


def test_the_controller_gets_images_and_the_instruction_and_nothing_else(make_env: Callable[..., Any]) -> None:
    env, controller = make_env(max_steps=2), Constant(0.0, 0.0, 0.0)
    rollout(env, controller, seed=0)
    rollout(env, controller, seed=0, instruction="stay where you are")
    assert controller.instructions == [env.instruction, "stay where you are"]
    assert [vars(observation).keys() for observation in controller.observations] == [{"image"}] * 4


def test_images_are_kept_from_first_to_last_when_asked_for(make_env: Callable[..., Any]) -> None:
    env, controller = make_env(max_steps=3), Constant(0.5, 0.5, 0.0)
    result = rollout(env, controller, seed=0, keep_images=True)
    assert len(result.images) == result.steps + 1
    for image, observation in zip(result.images, controller.observations, strict=False):
        np.testing.assert_array_equal(image, observation.image)
    assert not np.array_equal(result.images[0], result.images[-1])


def test_the_same_seed_gives_the_same_trial(make_env: Callable[..., Any]) -> None:
    env = make_env()
    first, other, again = (rollout(env, Expert(env.expert_action), seed=seed) for seed in (1, 2, 1))
    np.testing.assert_array_equal(first.actions, again.actions)
    assert not np.array_equal(first.actions[0], other.actions[0])


def test_an_environment_of_ones_own_satisfies_the_protocol(make_env: Callable[..., Any]) -> None:
    assert isinstance(make_env(), Env)


def test_a_replay_gives_the_actions_in_order_and_holds_the_last() -> None:
    actions = np.arange(6, dtype=np.float32).reshape(3, 2)
    replay = Replay(actions)
    replay.reset("any words")
    np.testing.assert_array_equal([replay.act(BLACK) for _ in range(5)], actions[[0, 1, 2, 2, 2]])
    replay.reset("other words")
    np.testing.assert_array_equal(replay.act(BLACK), actions[0])


@settings(deadline=None)
@given(st.integers(0, 2**40))
def test_random_actions_lie_within_the_bounds(seed: int) -> None:
    spec = rt1_action_spec()
    controller = RandomActions(spec, seed)
    controller.reset("any words")
    actions = np.stack([controller.act(BLACK) for _ in range(20)])
    assert not spec.out_of_bounds(actions).any()
    assert actions.dtype == np.float32


def test_random_actions_depend_on_the_seed_alone() -> None:
    spec = rt1_action_spec()
    first, again, other = (RandomActions(spec, seed) for seed in (5, 5, 6))
    one, same, different = ([c.act(BLACK) for _ in range(3)] for c in (first, again, other))
    np.testing.assert_array_equal(one, same)
    assert not np.array_equal(one, different)
    assert not np.array_equal(one[0], one[1])


def test_the_expert_acts_on_the_state_and_not_on_the_image(make_env: Callable[..., Any]) -> None:
    env = make_env()
    env.reset(4)
    expert = Expert(env.expert_action)
    expert.reset("any words")
    np.testing.assert_array_equal(expert.act(BLACK), env.expert_action())


def test_a_policy_in_a_trial_acts_as_it_does_on_its_own(
    make_env: Callable[..., Any], make_network: Callable[..., RT1], table: TableEncoder
) -> None:
    env = make_env()

    def policy() -> Policy:
        return Policy(make_network(), env.action_spec, encode_text=lambda sentence: table.encode([sentence])[0])

    controller = PolicyController(policy())
    trials = [rollout(env, controller, seed=0, instruction=words, keep_images=True) for words in _words(table)]
    np.testing.assert_array_equal(trials[0].actions, trials[2].actions)  # nothing is left of the trial between
    assert not np.array_equal(trials[0].actions, trials[1].actions)
    alone = policy()
    alone.reset(_words(table)[0])
    expected = [alone.act_vector(image) for image in trials[0].images[:-1]]
    np.testing.assert_array_equal(trials[0].actions, expected)


def _words(table: TableEncoder) -> list[str]:
    first, second = table.sentences[:2]
    return [first, second, first]


def test_a_controller_starts_anew_when_the_environment_changes_its_instruction(make_env: Callable[..., Any]) -> None:
    def changing() -> Any:
        env = make_env(max_steps=4)
        step = env.step

        def change(action: FloatArray) -> Any:
            result = step(action)
            env.instruction = "then close it" if len(env.executed) >= 2 else env.instruction
            return result

        env.step = change
        return env

    told = Constant(0.0, 0.0, 0.0)
    rollout(changing(), told, seed=3)
    assert told.instructions == ["open the drawer", "then close it"]
    other = Constant(0.0, 0.0, 0.0)
    rollout(changing(), other, seed=3, instruction="something else")
    assert other.instructions == ["something else"]
