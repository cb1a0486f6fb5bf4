"""The report of an offline evaluation: complete, escaped, self-contained, and small whatever the data."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rt1.actions import ActionSpec, Continuous, Discrete
from rt1.evaluate.episode_choice import Words, choose_episodes
from rt1.evaluate.offline import evaluate_offline
from rt1.model.rt1 import RT1
from rt1.policy.policy import Policy
from rt1.report.offline import OfflineReport, offline_json, write_offline_report

pytest.importorskip("matplotlib")

HOSTILE = "<script>alert(\"x\")</script> & 'quote' {{ title }}"
SPEC = ActionSpec(
    parts=(
        Discrete(name="stop", choices=3),
        Continuous(name="move", low=(-1.0, -2.0), high=(1.0, 2.0), labels=("<x>", "y")),
    ),
    bins=16,
)
CHOICES = ActionSpec(parts=tuple(Discrete(name=name, choices=3) for name in "abc"), bins=16)


@pytest.fixture
def make_report(make_source: Callable[..., Any], make_network: Callable[..., RT1]) -> Callable[..., OfflineReport]:
    """Evaluate an untrained network on episodes of these lengths."""

    def make(*lengths: int, spec: ActionSpec = SPEC, shown: int = 2, sentence: str = HOSTILE) -> OfflineReport:
        source, model = make_source(*lengths), make_network()
        source.action_spec, source.instruction = spec, lambda _: sentence
        source.moves = [
            np.where(spec.discrete_choices > 0, np.clip(np.round(moves + 1), 0, 2), moves).astype(np.float32)
            for moves in source.moves
        ]
        result = evaluate_offline(
            Policy(model, spec), source, choose_episodes(source, {}), Words(stored=True, origin=HOSTILE), shown=shown
        )
        return OfflineReport(
            title=HOSTILE,
            command="rt1 evaluate --data here",
            commit="abc123",
            machine="two cores",
            date="2026-11-20",
            checkpoint="last at update 7",
            seconds={"evaluate": 9.5},
            peak_gb=None,
            parameters=1_234_567,
            result=result,
            network=model.config,
        )

    return make


def test_the_page_is_complete_escaped_and_needs_nothing_else(
    make_report: Callable[..., OfflineReport], read_page: Callable[[str], Any], tmp_path: Path
) -> None:
    page = read_page(write_offline_report(make_report(5, 3, 4), tmp_path).read_text())
    for sentence in (
        HOSTILE,
        "Streaming and windows agree on all 12 steps",
        "Windows, all steps",
        "Most frequent",
        "<x>",
        "step 4",
        "map 1",
        "calibration",
        "rt1 evaluate --data here",
        "last at update 7",
    ):
        assert sentence in page.text, sentence


def test_the_figures_are_plain_data(make_report: Callable[..., OfflineReport], tmp_path: Path) -> None:
    report = make_report(5, 3, 4)
    write_offline_report(report, tmp_path)
    figures = json.loads((tmp_path / "offline.json").read_text())
    assert figures == offline_json(report)
    assert (figures["episodes"], figures["steps"], figures["windows"]) == (3, 12, 9)
    assert figures["streaming"] == report.result.streaming.values()
    assert set(figures["streaming"]) == set(figures["window_last_steps"]) == set(figures["window_all_steps"])
    assert figures["agreement"]["agrees"] is True
    assert figures["agreement"]["steps"] == 12
    assert sum(bar["tokens"] for bar in figures["reliability"]) == 12 * 3
    assert [sum(counts.values()) for counts in figures["bins_off"].values()] == [12, 12, 12]
    assert set(figures["most_frequent_token"]) == {"stop", "<x>", "y"}
    assert figures["command"] == "rt1 evaluate --data here"


def test_a_disagreement_is_said_on_the_page(make_report: Callable[..., OfflineReport], tmp_path: Path) -> None:
    report = make_report(3)
    report.result.agreement = replace(report.result.agreement, logit_difference=1.0)
    page = write_offline_report(report, tmp_path).read_text()
    assert "Streaming and windows disagree" in page
    report.result.agreement = replace(report.result.agreement, logit_difference=float("nan"))
    assert offline_json(report)["agreement"]["largest_difference"] is None
    assert offline_json(report)["agreement"]["agrees"] is False


def test_an_action_of_choices_alone_and_no_plotted_episode_leave_sentences(
    make_report: Callable[..., OfflineReport], tmp_path: Path
) -> None:
    page = write_offline_report(make_report(1, spec=CHOICES, shown=0), tmp_path).read_text()
    assert "Every dimension is a choice." in page
    assert "No episode was plotted." in page
    assert "no continuous dimension" in page


def test_more_and_longer_episodes_do_not_make_the_page_grow(
    make_report: Callable[..., OfflineReport], tmp_path: Path
) -> None:
    few = write_offline_report(make_report(*[8] * 3, shown=1), tmp_path).stat().st_size
    many = write_offline_report(make_report(*[24] * 12, shown=1), tmp_path).stat().st_size
    assert many < 1.2 * few
