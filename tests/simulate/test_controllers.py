"""A policy, an expert, and the baselines that do not look."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from rt1.actions import rt1_action_spec
from rt1.envs.base import Observation
from rt1.model.rt1 import RT1
from rt1.policy.policy import Policy
from rt1.simulate.controllers import Expert, PolicyController, RandomActions, Replay
from rt1.simulate.rollout import rollout
from rt1.text.encoder import TableEncoder

BLACK = Observation(image=np.zeros((16, 16, 3), dtype=np.uint8))


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
