"""Outcomes of trials: shares of them, and the same counts in any order."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rt1.evaluate.outcomes import Shard, TrialOutcome, count_outcomes
from rt1.simulate.trials import Kind, TrialPlan


def _plans(count: int) -> list[TrialPlan]:
    kinds: tuple[Kind, ...] = ("policy", "expert", "blind", "random")
    return [
        TrialPlan(kind=kinds[number % 4], task=f"task-{number // 4}", instruction="go", trials=(0, 1), seed=0)
        for number in range(count)
    ]


@given(st.integers(0, 60), st.integers(1, 9))
def test_the_shards_hold_every_plan_once_and_about_as_many_of_each_kind(plans: int, count: int) -> None:
    shares = [Shard(number=number, count=count).share(_plans(plans)) for number in range(1, count + 1)]
    assert sorted(map(repr, (plan for share in shares for plan in share))) == sorted(map(repr, _plans(plans)))
    policies = [sum(plan.kind == "policy" for plan in share) for share in shares]
    assert max(policies) - min(policies) <= 1


@pytest.mark.parametrize("text", ["0/8", "9/8", "1/0", "3", "a/b", "-1/8", "3/8/9", ""])
def test_a_wrong_shard_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"shard is .*K/N"):
        Shard.parse(text)


def test_a_shard_is_read_as_it_is_written() -> None:
    assert Shard.parse("3/8") == Shard(number=3, count=8)
    assert str(Shard.parse("3/8")) == "3/8"


def _outcome(trial: int, *, success: bool, task: str = "near", reward: float = 0.1) -> TrialOutcome:
    return TrialOutcome(
        kind="policy",
        task=task,
        instruction="go",
        trial=trial,
        success=success,
        steps=3 + trial,
        clipped=1,
        total_reward=reward * trial,
        video=f"{trial:04d}",
    )


def test_outcomes_are_counted_alike_in_any_order() -> None:
    outcomes = [_outcome(trial, success=trial % 3 > 0, task=task) for task in ("near", "far") for trial in range(10)]
    result = count_outcomes(("near", "far"), outcomes, 7.0)
    random.Random(0).shuffle(outcomes)
    assert count_outcomes(("near", "far"), outcomes, 7.0) == result
    near = result.tasks[0]
    assert (near.successes, near.trials, near.clipped, near.mean_steps) == (6, 10, 10, 7.5)
    assert near.returns == {"policy": pytest.approx(0.45)}
    assert near.success_video != near.failure_video
