"""The page of self-improvement: every round with its counts, all names escaped."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rt1.evaluate.results import SuccessCount
from rt1.report.self_improvement import write_report
from rt1.train.self_improvement import Improvement, Round

pytest.importorskip("matplotlib")


def _counts(task: str, *successes: int) -> tuple[SuccessCount, ...]:
    return tuple(
        SuccessCount(task=name, trials=10, successes=n) for name, n in zip((task, "reach"), successes, strict=True)
    )


@pytest.mark.parametrize("control", [True, False])
def test_the_page_shows_every_round(
    control: bool,  # noqa: FBT001
    hostile: str,
    read_page: Callable[[str], Any],
    tmp_path: Path,
) -> None:
    baseline = _counts(hostile, 4, 2) if control else ()
    rounds = (
        Round(number=0, attempts={}, kept={}, improved=_counts(hostile, 4, 2), control=baseline),
        Round(
            number=1,
            attempts={hostile: 50},
            kept={hostile: 31},
            failures={hostile: 19},
            improved=_counts(hostile, 9, 7),
            control=baseline,
        ),
    )
    improvement = Improvement(
        folder=tmp_path, rounds=rounds, cpu_seconds={"train": 120.0, "trials": 60}, finished=False
    )
    page = read_page(write_report(improvement, command="rt1 improve").read_text())
    for expected in (
        "stopped by its budget",
        "Before 30 % recorded episodes only",
        "After round 1 80 % with its own episodes",
        "CPU time 3 min train 2, trials 1",
        f"1 {hostile} 50 31 19 90 % [60, 98] 9/10",
        "rt1 improve",
    ):
        assert expected in page.text, expected
    assert ("Baseline 30 %" in page.text) == control
    assert page.text.count(hostile) == 3  # subtitle and two rounds
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["rounds"][1]["improved_success"] == 0.8
    assert results["row"] == "with its own episodes"


def test_the_page_names_expert_corrections_and_their_failed_tries(
    read_page: Callable[[str], Any], tmp_path: Path
) -> None:
    counts = {
        "attempts": {"press": 8, "reach": 8},
        "kept": {"press": 7, "reach": 8},
        "failures": {"press": 5, "reach": 0},
    }
    rounds = (
        Round(number=0, attempts={}, kept={}, improved=_counts("press", 4, 2), control=()),
        Round(number=1, **counts, improved=_counts("press", 9, 7), control=()),
    )
    improvement = Improvement(folder=tmp_path, rounds=rounds, cpu_seconds={}, finished=True, expert=True)
    page = read_page(write_report(improvement).read_text())
    for expected in ("After round 1 80 % with expert corrections", "1 press 8 7 5 90 %", "the expert takes over"):
        assert expected in page.text, expected
    assert json.loads((tmp_path / "results.json").read_text())["row"] == "with expert corrections"
