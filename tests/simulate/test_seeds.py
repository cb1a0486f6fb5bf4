"""No trial starts as a recorded episode did."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rt1.simulate.seeds import recording_seed, trial_seed

SEEDS = st.integers(0, 10**6)
EPISODES = st.tuples(SEEDS, st.integers(0, 9_999), st.integers(0, 99))
TRIALS = st.tuples(SEEDS, st.integers(0, 999_999))


@given(EPISODES, TRIALS)
def test_no_trial_has_the_seed_of_a_recorded_episode(episode: tuple[int, int, int], trial: tuple[int, int]) -> None:
    assert recording_seed(*episode) != trial_seed(*trial)


@given(EPISODES, EPISODES)
def test_two_recorded_episodes_share_no_seed(one: tuple[int, int, int], other: tuple[int, int, int]) -> None:
    assert (recording_seed(*one) == recording_seed(*other)) == (one == other)


@given(TRIALS, TRIALS)
def test_two_trials_share_no_seed(one: tuple[int, int], other: tuple[int, int]) -> None:
    assert (trial_seed(*one) == trial_seed(*other)) == (one == other)


@pytest.mark.parametrize("arguments", [(-1, 0, 0), (0, 10_000, 0), (0, -1, 0), (0, 0, 100), (0, 0, -1)])
def test_a_recorded_episode_out_of_range_is_refused(arguments: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match=r"episode of a task below 10000, the attempt below 100"):
        recording_seed(*arguments)


@pytest.mark.parametrize("arguments", [(-1, 0), (0, -1), (0, 1_000_000)])
def test_a_trial_out_of_range_is_refused(arguments: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="the trial below 1000000"):
        trial_seed(*arguments)
