"""Closed-loop trials of a run: what is run, what comes out, and what shows before the first update."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from rt1.checkpoint import CheckpointInfo, load_info
from rt1.evaluate.seeds import trial_seed
from rt1.text.encoder import TableEncoder
from rt1.train.trials import ClosedLoopSettings, prepare_closed_loop

pytest.importorskip("metaworld", reason="Meta-World is not installed")


@pytest.fixture
def checkpoint(make_checkpoint: Callable[..., Path], tmp_path: Path) -> Path:
    return make_checkpoint(tmp_path / "run" / "last")


def test_a_round_gives_the_rate_of_each_task_and_their_mean(gl: str, checkpoint: Path, table: TableEncoder) -> None:
    assert gl
    settings = ClosedLoopSettings(every=5, trials=2, workers=1)
    closed_loop = prepare_closed_loop(load_info(checkpoint), settings, encoder=table)
    threads = torch.get_num_threads()
    rates = closed_loop.round(checkpoint)
    assert torch.get_num_threads() == threads
    assert rates.keys() == {"success", "success/faucet-open-v3", "success/faucet-close-v3"}
    assert set(rates.values()) <= {0.0, 0.25, 0.5, 0.75, 1.0}
    assert rates["success"] == (rates["success/faucet-open-v3"] + rates["success/faucet-close-v3"]) / 2
    assert closed_loop.round(checkpoint) == rates  # the same starts


def test_the_tasks_of_the_data_are_tried_unless_others_are_given(checkpoint: Path, table: TableEncoder) -> None:
    def tasks(**changes: Any) -> dict[str, int]:
        made = prepare_closed_loop(load_info(checkpoint), ClosedLoopSettings(every=1, **changes), encoder=table)
        return {plan.task: len(plan.trials) for plan in made.plans}

    assert tasks(trials=3) == {"faucet-open-v3": 3, "faucet-close-v3": 3}
    assert tasks(tasks=("hammer",), trials=1) == {"hammer-v3": 1}
    assert trial_seed(0, 0) % 2 == 1  # never the start of a recording


def _changed(info: CheckpointInfo, **changes: Any) -> CheckpointInfo:
    return dataclasses.replace(info, **changes)


@pytest.mark.parametrize(
    ("changes", "settings", "message"),
    [
        ({"provenance": {"tasks": []}}, {}, r"need an environment, and the data name none; .*--closed-loop\.every 0"),
        ({}, {"tasks": ("hamer",)}, "unknown Meta-World task 'hamer'; did you mean 'hammer"),
        ({"text_encoder": None}, {}, "names no text encoder; give the one"),
    ],
)
def test_what_cannot_be_tried_shows_at_once(
    checkpoint: Path, changes: dict[str, Any], settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        prepare_closed_loop(_changed(load_info(checkpoint), **changes), ClosedLoopSettings(every=1, **settings))


def test_actions_of_another_robot_are_refused(make_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    other = make_checkpoint(tmp_path / "other", names=("a", "b", "c", "d"))
    with pytest.raises(ValueError, match="a, b, c, d"):
        prepare_closed_loop(load_info(other), ClosedLoopSettings(every=1))


@pytest.mark.parametrize("changes", [{"every": -1}, {"trials": 0}, {"seed": -1}, {"workers": -1}])
def test_a_setting_out_of_range_is_refused_by_name(changes: dict[str, Any]) -> None:
    ((name, value),) = changes.items()
    with pytest.raises(ValueError, match=f"{name} (is )?{value}"):
        ClosedLoopSettings(**changes)
