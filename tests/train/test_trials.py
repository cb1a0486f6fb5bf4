"""Closed-loop trials of a run: what is run, what comes out, and what shows before the first update."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rt1.actions import ActionSpec, Continuous
from rt1.checkpoint import CheckpointInfo, load_info
from rt1.envs.metaworld import MetaWorldConfig, MetaWorldSuite
from rt1.envs.registry import suite_to_json
from rt1.evaluate.metrics import read_metrics
from rt1.simulate.seeds import trial_seed
from rt1.text.encoder import TableEncoder
from rt1.train.config import TrainConfig
from rt1.train.loop import train
from rt1.train.trials import ClosedLoopSettings, prepare_closed_loop

pytest.importorskip("metaworld", reason="Meta-World is not installed")


@pytest.fixture
def checkpoint(make_checkpoint: Callable[..., Path], tmp_path: Path) -> Path:
    return make_checkpoint(tmp_path / "run" / "last")


def test_a_round_gives_the_rate_of_each_task_and_their_mean(gl: str, checkpoint: Path, table: TableEncoder) -> None:
    assert gl
    wanted = ClosedLoopSettings(every=5, trials=1, workers=1)
    closed_loop = prepare_closed_loop(load_info(checkpoint), wanted, encoder=table)
    threads = torch.get_num_threads()
    rates = closed_loop.round(checkpoint)
    assert torch.get_num_threads() == threads
    assert rates.keys() == {"success", "success/faucet-open-v3", "success/faucet-close-v3"}
    assert set(rates.values()) <= {0.0, 0.5, 1.0}
    assert rates["success"] == (rates["success/faucet-open-v3"] + rates["success/faucet-close-v3"]) / 2


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
    ("changes", "wanted", "message"),
    [
        ({"provenance": {"tasks": []}}, {}, r"need an environment, and the data name none. .*--closed-loop\.every 0"),
        ({}, {"tasks": ("hamer",)}, "unknown metaworld task 'hamer', did you mean 'hammer"),
        ({"text_encoder": None}, {}, "names no text encoder"),
    ],
)
def test_what_cannot_be_tried_shows_at_once(
    checkpoint: Path, changes: dict[str, Any], wanted: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        prepare_closed_loop(_changed(load_info(checkpoint), **changes), ClosedLoopSettings(every=1, **wanted))


def test_actions_of_another_robot_are_refused(make_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    other = make_checkpoint(tmp_path / "other", names=("a", "b", "c", "d"))
    with pytest.raises(ValueError, match="a, b, c, d"):
        prepare_closed_loop(load_info(other), ClosedLoopSettings(every=1))


@pytest.mark.parametrize("changes", [{"every": -1}, {"trials": 0}, {"seed": -1}, {"workers": -1}])
def test_a_setting_out_of_range_is_refused_by_name(changes: dict[str, Any]) -> None:
    ((name, value),) = changes.items()
    with pytest.raises(ValueError, match=f"{name} (is )?{value}"):
        ClosedLoopSettings(**changes)


def test_a_run_tries_its_policy_and_keeps_the_one_that_succeeds_most(
    gl: str,
    make_source: Callable[..., Any],
    short: Callable[..., TrainConfig],
    table: TableEncoder,
    tmp_path: Path,
) -> None:
    assert gl
    source = make_source(4, 4, 4, 4)
    moves = ("hand_x", "hand_y", "hand_z", "gripper")
    spec = ActionSpec(parts=(Continuous(name="all", low=(-1.0,) * 4, high=(1.0,) * 4, labels=moves),), bins=16)
    source.action_spec, source.moves = spec, [np.pad(move, ((0, 0), (0, 1))) for move in source.moves]
    world = MetaWorldSuite(config=MetaWorldConfig(image_size=48, control_rate=4.0))
    source.details = {"env": suite_to_json(world)}
    trials = ClosedLoopSettings(every=3, trials=1, workers=1, tasks=("faucet-open",))
    config = short(updates=3, closed_loop=trials, best_metric="success", held_out=0.0)
    result = train(source, config, tmp_path / "run", encoder=table)
    tried = {r["update"]: r["success"] for r in read_metrics(tmp_path / "run") if "success" in r}
    assert tried.keys() == {3}
    assert result.best == max(tried.values())
    assert all("success/faucet-open-v3" in r for r in read_metrics(tmp_path / "run") if "success" in r)
    best = load_info(tmp_path / "run" / "best").provenance
    assert (best["best_metric"], best["best"]) == ("success", result.best)
    assert tried[best["update"]] == result.best


def test_trials_that_cannot_run_are_refused_before_anything_is_written(
    make_source: Callable[..., Any], short: Callable[..., TrainConfig], table: TableEncoder, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    with pytest.raises(ValueError, match="need an environment"):
        train(make_source(4, 4), short(closed_loop=ClosedLoopSettings(every=1)), run, encoder=table)
    assert not run.exists()
    assert train(make_source(4, 4), short(updates=1), run, encoder=table).finished
