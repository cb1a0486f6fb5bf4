"""Trials by plan: what is run, with which start, and what is kept of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rt1.envs.metaworld import MetaWorldSuite
from rt1.simulate import trials
from rt1.simulate.rollout import Rollout
from rt1.simulate.trials import (
    Kind,
    TrialPlan,
    TrialPolicy,
    TrialResult,
    plan_trials,
    progress_note,
    run_trials,
    with_images,
)
from rt1.text.encoder import TableEncoder

pytest.importorskip("metaworld", reason="Meta-World is not installed")


def _run(
    kind: Kind, task: str, *, suite: MetaWorldSuite, count: int = 2, seed: int = 0, checkpoint: Path | None = None
) -> list[TrialResult]:
    instruction = suite.sentences(task)[0]
    plans = plan_trials(kind, task, instruction, trials=count, seed=seed)
    embeddings = {instruction: np.ones(8, np.float32)}
    policy = None if checkpoint is None else TrialPolicy(checkpoint=checkpoint)
    batches = run_trials(plans, suite=suite, policy=policy, embeddings=embeddings, workers=1)
    return [result for batch in batches for result in batch]


@given(st.integers(1, 200))
def test_plans_hold_every_trial_once_in_order(count: int) -> None:
    plans = plan_trials("policy", "reach-v3", "go", trials=count, seed=3)
    assert [trial for plan in plans for trial in plan.trials] == list(range(count))
    assert {(plan.kind, plan.task, plan.instruction, plan.seed) for plan in plans} == {("policy", "reach-v3", "go", 3)}


def test_the_expert_solves_what_random_actions_do_not() -> None:
    suite = MetaWorldSuite()
    assert all(result.rollout.success for result in _run("expert", "faucet-open", suite=suite))
    assert not any(result.rollout.success for result in _run("random", "faucet-open", suite=suite))


@pytest.mark.parametrize("kind", ["expert", "blind", "random"])
def test_baselines_give_the_same_trials_each_time_and_need_no_pictures(kind: Kind) -> None:
    one, again = (_run(kind, "faucet-open", suite=MetaWorldSuite()) for _ in range(2))
    for first, second in zip(one, again, strict=True):
        np.testing.assert_array_equal(first.rollout.actions, second.rollout.actions)
        assert first.rollout.images == ()


def test_another_seed_gives_other_trials() -> None:
    one, other = (_run("expert", "faucet-open", suite=MetaWorldSuite(), count=1, seed=seed) for seed in (0, 1))
    assert not np.array_equal(one[0].rollout.actions, other[0].rollout.actions)


def test_the_blind_floor_replays_a_successful_episode_with_another_start() -> None:
    suite = MetaWorldSuite()
    expert, blind = (_run(kind, "faucet-open", suite=suite, count=1)[0].rollout for kind in ("expert", "blind"))
    assert not np.array_equal(blind.actions[: expert.steps], expert.actions[: blind.steps])
    if not blind.success:  # the last action is held when the replay runs out
        np.testing.assert_array_equal(blind.actions[-1], blind.actions[-2])


def test_an_expert_that_never_succeeds_leaves_no_blind_floor_and_says_so(
    small_world: MetaWorldSuite, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trials, "MOST_ATTEMPTS", 2)
    with pytest.raises(ValueError, match="peg-insert-side failed 2 times"):
        _run("blind", "peg-insert-side", suite=small_world, count=1)


def test_a_policy_sees_pictures_and_those_of_its_first_failure_are_kept(
    gl: str, make_checkpoint: Callable[..., Path], small_world: MetaWorldSuite, tmp_path: Path
) -> None:
    assert gl
    checkpoint = make_checkpoint(tmp_path / "checkpoint")
    results = _run("policy", "faucet-open", suite=small_world, count=2, checkpoint=checkpoint)
    assert [result.trial for result in results] == [0, 1]
    assert not any(result.rollout.success for result in results)
    first, second = (result.rollout for result in results)
    assert len(first.images) == first.steps + 1
    assert second.images == ()
    without = replace(results[0], rollout=replace(first, images=(), snapshots=()))  # as from a log
    again = with_images(small_world, without).rollout
    np.testing.assert_array_equal(again.images, first.images)
    assert len(again.snapshots) == len(first.snapshots) == len(first.images)


def test_trials_start_alike_whatever_acts(
    gl: str, make_checkpoint: Callable[..., Path], small_world: MetaWorldSuite, tmp_path: Path
) -> None:
    assert gl
    checkpoint = make_checkpoint(tmp_path / "checkpoint")
    plans = [
        TrialPlan(kind="policy", task="faucet-open-v3", instruction=words, trials=(1,), seed=0)
        for words in ("one", "two")
    ]
    embeddings = {"one": np.ones(8, np.float32), "two": -np.ones(8, np.float32)}
    (one,), (two,) = run_trials(
        plans, suite=small_world, policy=TrialPolicy(checkpoint=checkpoint), embeddings=embeddings, workers=1
    )
    np.testing.assert_array_equal(one.rollout.images[0], two.rollout.images[0])


def test_the_policy_is_told_the_plans_sentence(
    gl: str, make_checkpoint: Callable[..., Path], small_world: MetaWorldSuite, table: TableEncoder, tmp_path: Path
) -> None:
    assert gl
    checkpoint = make_checkpoint(tmp_path / "checkpoint")
    plan = TrialPlan(kind="swapped", task="faucet-open-v3", instruction="unheard of", trials=(0,), seed=0)
    embeddings = {sentence: table.encode([sentence])[0] for sentence in table.sentences}
    with pytest.raises(KeyError, match="unheard of"):
        list(
            run_trials(
                [plan], suite=small_world, policy=TrialPolicy(checkpoint=checkpoint), embeddings=embeddings, workers=1
            )
        )


def test_a_trial_does_not_depend_on_the_plans_beside_its_own_and_a_batch_acts_as_each_alone(
    make_checkpoint: Callable[..., Path], make_suite: Callable[..., Any], tmp_path: Path
) -> None:
    checkpoint = make_checkpoint(tmp_path / "checkpoint", names=("move_0", "move_1", "move_2"))
    suite = make_suite()
    suite.open_batch = lambda _task, count, _render: [suite.make_env() for _ in range(count)]
    plans = [plan for task in ("near", "far") for plan in plan_trials("policy", task, "go", trials=7, seed=0)]

    def run(some: list[TrialPlan]) -> dict[tuple[str, int], TrialResult]:
        embeddings = {"go": np.ones(8, np.float32)}
        policy = TrialPolicy(checkpoint=checkpoint)
        batches = run_trials(some, suite=suite, policy=policy, embeddings=embeddings, workers=1)
        return {(result.plan.task, result.trial): result for batch in batches for result in batch}

    together = run(plans)
    assert len(together) == 14
    for plan in plans:
        for key, result in run([plan]).items():
            np.testing.assert_array_equal(result.rollout.actions, together[key].rollout.actions)
    lone = run([TrialPlan(kind="policy", task="far", instruction="go", trials=(6,), seed=0)])
    assert lone["far", 6].rollout.steps == together["far", 6].rollout.steps
    np.testing.assert_allclose(lone["far", 6].rollout.actions, together["far", 6].rollout.actions, atol=0.13)  # a bin


@pytest.mark.parametrize(
    ("max_return", "note"), [(None, "policy 1 of 2"), (1000.0, "policy's mean return 15.0")], ids=["success", "return"]
)
def test_the_progress_shows_the_policys_successes_or_its_mean_return(max_return: float | None, note: str) -> None:
    def result(kind: Kind, reward: float, *, success: bool) -> TrialResult:
        (plan,) = plan_trials(kind, "walk", "walk", trials=1, seed=0)
        actions = np.zeros((1, 2), np.float32)
        rollout = Rollout(success=success, steps=1, actions=actions, clipped=0, rewards=np.array([reward]))
        return TrialResult(plan=plan, trial=0, rollout=rollout, max_return=max_return)

    results = [result("policy", 10.0, success=True), result("policy", 20.0, success=False)]
    assert progress_note([*results, result("expert", 900.0, success=True)]) == note
    assert progress_note([]) == "policy 0 of 0"
