"""A policy's own successes as a data set."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rt1.data.rlds.reader import RLDSSource
from rt1.data.sources.base import has_corrections
from rt1.envs.base import recorded_sentences
from rt1.envs.metaworld import MetaWorldSuite
from rt1.simulate import collect as collector
from rt1.simulate.collect import CollectSettings, check_can_collect, collect
from rt1.simulate.seeds import collection_seed, trial_seed
from rt1.text.encoder import TableEncoder

HANDLE, FAUCET = "handle-press-v3", "faucet-open-v3"
DOWN = (0.0, 0.0, -1.0, 0.0)
"""What the policy of the fixture ``steady`` does."""

SETTINGS = CollectSettings(attempts={HANDLE: 5, FAUCET: 5}, tries=1, noise=0.2, workers=1)


def _collect(folder: Path, checkpoint: Path, suite: MetaWorldSuite, encoder: TableEncoder) -> collector.Collection:
    return collect(folder, checkpoint, suite=suite, settings=SETTINGS, encoder=encoder, seed=(3, 1))


def test_successes_are_kept_with_what_was_executed_and_where_they_come_from(
    steady: Path, small_world: MetaWorldSuite, table: TableEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = _collect(tmp_path / "own", steady, small_world, table)
    assert found.attempts == {HANDLE: 5, FAUCET: 5}
    assert found.successes[FAUCET] == 0
    assert found.episodes == found.successes[HANDLE] >= 1
    source = RLDSSource(tmp_path / "own")
    assert len(source.lengths) == found.episodes
    executed = source.actions(0, 0, int(source.lengths[0]))
    assert (executed[:, :3].std(0) > 0).all()  # the noise that led there is learned
    assert (executed[:, 3] == executed[0, 3]).all()  # the gripper has none
    assert executed[:, 2].mean() < -0.5
    assert source.task(0) == HANDLE
    assert source.instruction(0) in recorded_sentences(small_world, HANDLE)
    details = source.details
    assert details["made_by"]["policy"] == str(steady)
    assert (details["attempts"], details["successes"]) == (dict(found.attempts), dict(found.successes))
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith(".")) == []

    def never(*_: object, **__: object) -> None:
        raise AssertionError

    monkeypatch.setattr(collector, "run_jobs", never)
    assert _collect(tmp_path / "own", steady, small_world, table) == found  # and is not collected again


def test_an_interrupted_collection_goes_on_and_comes_out_the_same(
    steady: Path, small_world: MetaWorldSuite, table: TableEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    handle = replace(SETTINGS, attempts={HANDLE: 4})
    monkeypatch.setattr(collector, "_PER_JOB", 2)

    def own(name: str) -> collector.Collection:
        return collect(tmp_path / name, steady, suite=small_world, settings=handle, encoder=table)

    whole = own("whole")
    run = collector._Collector.run
    done: list[collector._Job] = []

    def interrupted(self: collector._Collector, job: collector._Job) -> None:
        if done:
            raise KeyboardInterrupt
        run(self, job)
        done.append(job)

    monkeypatch.setattr(collector._Collector, "run", interrupted)
    with pytest.raises(KeyboardInterrupt):
        own("again")
    monkeypatch.setattr(collector._Collector, "run", run)
    resumed = own("again")
    assert resumed.successes == whole.successes
    shards = [sorted((tmp_path / name).glob("*.tfrecord*"))[0].read_bytes() for name in ("whole", "again")]
    assert shards[0] == shards[1]


def test_a_start_that_fails_is_tried_again_with_other_noise_within_the_steps_given(
    steady: Path, small_world: MetaWorldSuite, table: TableEncoder, tmp_path: Path
) -> None:
    def own(name: str, **changed: object) -> tuple[int, RLDSSource]:
        settings = replace(SETTINGS, attempts={HANDLE: 6}, noise=1.0, **changed)  # type: ignore[arg-type]
        found = collect(tmp_path / name, steady, suite=small_world, settings=settings, encoder=table)
        return found.episodes, RLDSSource(tmp_path / name)

    once, first = own("once")
    often, all_ = own("often", tries=4)
    assert 1 <= once < often <= 6
    assert np.isin(first.lengths, all_.lengths).all()  # the first try is the same
    shortest = int(all_.lengths.min())
    short, found = own("short", tries=4, max_steps=shortest)
    assert 1 <= short < often
    assert found.lengths.max() == shortest


def _corrections(
    folder: Path, checkpoint: Path, suite: Any, encoder: TableEncoder, **changed: Any
) -> collector.Collection:
    settings = CollectSettings(attempts={"near": 4}, handover={"near": 4}, tries=1, noise=0.0, workers=1)
    settings = replace(settings, **changed)
    return collect(folder, checkpoint, suite=suite, settings=settings, encoder=encoder, seed=(3, 1))


@pytest.fixture
def point_policy(make_checkpoint: Callable[..., Path], tmp_path: Path) -> Path:
    """An untrained policy for the fixture ``make_suite``. It does not reach the goal."""
    return make_checkpoint(tmp_path / "checkpoint", names=("move_0", "move_1", "move_2"))


def test_the_policy_acts_first_and_the_experts_action_is_stored_for_every_step(
    point_policy: Path, make_suite: Callable[..., Any], table: TableEncoder, tmp_path: Path
) -> None:
    suite = make_suite(max_steps=30)
    collection = _corrections(tmp_path / "own", point_policy, suite, table)
    assert (collection.successes, collection.failures) == ({"near": 4}, {"near": 0})
    source = RLDSSource(tmp_path / "own")
    for episode, steps in enumerate(source.lengths.tolist()):
        assert (source.actions(episode, 0, steps)[:, 2] == 1).all()  # the expert's, not the policy's
    (env,) = (env for env in suite.opened if env.executed)
    executed = np.stack(env.executed)[:, 2]  # of the last episode
    policy_steps = int((executed != 1).sum())
    assert 1 <= policy_steps <= 4
    assert (executed[policy_steps:] == 1).all()
    details = source.details
    assert has_corrections(details)
    assert (details["handover"], details["seed"], details["made_by"]["policy"]) == (
        {"near": 4},
        [3, 1],
        str(point_policy),
    )


def test_episodes_of_policy_and_expert_act_together_as_each_alone(
    point_policy: Path, make_suite: Callable[..., Any], table: TableEncoder, tmp_path: Path
) -> None:
    suite = make_suite(max_steps=30)
    _corrections(tmp_path / "alone", point_policy, suite, table)
    suite.open_batch = lambda _task, count, _render: [suite.make_env(max_steps=30) for _ in range(count)]
    _corrections(tmp_path / "together", point_policy, suite, table)
    alone, together = RLDSSource(tmp_path / "alone"), RLDSSource(tmp_path / "together")
    assert alone.lengths.tolist() == together.lengths.tolist()
    for episode, steps in enumerate(alone.lengths.tolist()):
        np.testing.assert_allclose(
            alone.actions(episode, 0, steps),
            together.actions(episode, 0, steps),
            atol=0.13,  # a bin
        )


def test_an_episode_in_which_the_expert_fails_is_counted_and_left_out(
    point_policy: Path, make_suite: Callable[..., Any], table: TableEncoder, tmp_path: Path
) -> None:
    collection = _corrections(tmp_path / "own", point_policy, make_suite(max_steps=5), table, tries=2)
    assert 1 <= collection.successes["near"] < 4
    assert collection.failures["near"] >= 2 * (4 - collection.successes["near"])
    assert len(RLDSSource(tmp_path / "own").lengths) == collection.episodes
    assert _corrections(tmp_path / "own", point_policy, make_suite(max_steps=5), table, tries=2) == collection


def test_corrections_of_a_task_without_an_expert_are_refused(
    point_policy: Path, make_suite: Callable[..., Any], table: TableEncoder, tmp_path: Path
) -> None:
    both = {"near": 2, "far": 2}
    with pytest.raises(ValueError, match=r"^far .* expert"):
        _corrections(tmp_path / "own", point_policy, make_suite(), table, attempts=both, handover=both)


def test_a_policy_that_never_succeeds_collects_nothing_and_says_so(
    steady: Path, small_world: MetaWorldSuite, table: TableEncoder, tmp_path: Path
) -> None:
    only = replace(SETTINGS, attempts={FAUCET: 2})
    found = collect(tmp_path / "own", steady, suite=small_world, settings=only, encoder=table)
    assert (found.episodes, found.attempts) == (0, {FAUCET: 2})
    again = collect(tmp_path / "own", steady, suite=small_world, settings=only, encoder=table)
    assert again == found


def test_collected_episodes_never_start_as_trials_do() -> None:
    trials = {trial_seed(0, trial) for trial in range(1000)}
    assert trials.isdisjoint(collection_seed(0, number, attempt) for number in range(3) for attempt in range(500))
    assert len({collection_seed(0, 1, attempt) for attempt in range(500)}) == 500


@pytest.mark.parametrize(
    "wrong",
    [{"attempts": {}}, {"attempts": {HANDLE: 0}}, {"tries": 0}, {"max_steps": 0}, {"noise": 3.0}, {"jpeg_quality": 0}],
)
def test_impossible_settings_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="must be"):
        CollectSettings(**{"attempts": {HANDLE: 1}, **wrong})  # type: ignore[arg-type]


def test_a_suite_without_successes_or_known_instructions_is_refused(make_suite: Callable[..., Any]) -> None:
    suite = make_suite(task_sentences={"near": ()})
    with pytest.raises(ValueError, match="points tells its instructions only at reset"):
        check_can_collect(suite, ["near"])
    suite.max_return = 10.0
    with pytest.raises(ValueError, match="points measures returns"):
        check_can_collect(suite, ["near"])
