"""The log of finished trials: what comes back from it, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rt1.errors import DataError, LockedError
from rt1.simulate.rollout import Rollout
from rt1.simulate.trial_log import TrialLog, trial_log
from rt1.simulate.trials import TrialPlan, TrialResult, plan_trials

ABOUT = {"weights": "abc", "trials": {"seed": 0, "tasks": ("near", "far")}}
PLANS = plan_trials("policy", "near", "go", trials=9, seed=0)


def _results(plan: TrialPlan) -> list[TrialResult]:
    rng = np.random.default_rng(plan.trials[0])
    images = (np.zeros((2, 2, 3), np.uint8),)
    return [
        TrialResult(
            plan=plan,
            trial=trial,
            rollout=Rollout(
                success=trial % 2 == 0,
                steps=3,
                actions=rng.normal(size=(3, 4)).astype(np.float32),
                clipped=trial,
                rewards=rng.normal(size=3),
                images=images if trial < 2 else (),
            ),
        )
        for trial in plan.trials
    ]


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "log.jsonl"
    TrialLog(path, ABOUT).add(_results(PLANS[0]))
    return path


def test_finished_trials_come_back_bit_for_bit_and_with_the_actions_that_bring_back_their_images(log: Path) -> None:
    results = TrialLog(log, ABOUT).results(PLANS, None)
    assert [result.trial for result in results] == [0, 1, 2, 3, 4]
    for result, original in zip(results, _results(PLANS[0]), strict=True):
        old, new = original.rollout, result.rollout
        assert result.plan == original.plan
        assert (new.success, new.steps, new.clipped) == (old.success, old.steps, old.clipped)
        assert new.total_reward == old.total_reward
        assert new.images == ()
        np.testing.assert_array_equal(new.actions, old.actions if old.images else np.zeros(0))


def test_a_torn_last_line_is_dropped_and_its_plan_can_be_added_again(log: Path) -> None:
    with log.open("a") as file:
        file.write(log.read_text().splitlines()[1][:100])
    again = TrialLog(log, ABOUT)
    again.add(_results(PLANS[1]))
    assert len(TrialLog(log, ABOUT).results(PLANS, None)) == 9
    assert [*map(json.loads, log.read_text().splitlines())]


def test_nothing_is_written_before_a_trial_is_finished(tmp_path: Path) -> None:
    with trial_log(tmp_path / "log.jsonl", ABOUT):
        pass
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize(
    ("about", "message"),
    [
        ({**ABOUT, "weights": "xyz"}, "weights was 'abc' .* now it is 'xyz'"),
        ({**ABOUT, "trials": {"seed": 5, "tasks": ("near", "far")}}, r"^seed was 0 .* now it is 5"),
        ({**ABOUT, "picture_backend": "egl"}, "picture_backend was None .* now it is 'egl'"),
    ],
)
def test_a_log_of_other_trials_is_refused_with_the_setting_and_stays(
    log: Path, about: dict[str, Any], message: str
) -> None:
    before = log.read_bytes()
    with pytest.raises(ValueError, match=message):
        TrialLog(log, about)
    assert log.read_bytes() == before


@pytest.mark.parametrize("damage", ["{", "[]", '{"plan": {}, "trials": []}'])
def test_a_damaged_line_is_refused_with_the_file_and_the_cure(log: Path, damage: str) -> None:
    log.write_text(f"{log.read_text().splitlines()[0]}\n{damage}\n")
    with pytest.raises(DataError, match=r"log.jsonl.*[Rr]emove it"):
        TrialLog(log, ABOUT)


def test_two_processes_do_not_share_a_log(log: Path) -> None:
    with trial_log(log, ABOUT) as opened:
        assert opened is not None
        with pytest.raises(LockedError, match="in use"), trial_log(log, ABOUT):
            pass
    assert [path.name for path in log.parent.iterdir()] == [log.name]
    with trial_log(None, ABOUT) as none:
        assert none is None
