"""An open policy in environments of one's own: table and page from one call."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rt1.actions import ActionSpec, FloatArray
from rt1.envs.custom import CustomSuite
from rt1.policy.base import BasePolicy, Instruction
from rt1.report.policy_trials import evaluate_closed_loop


class Still(BasePolicy):
    """A policy that never moves."""

    def __init__(self, spec: ActionSpec) -> None:
        self.action_spec = spec
        self.told: list[Instruction] = []

    def reset(self, instruction: Instruction) -> None:
        self.told.append(instruction)

    def logits(self, image: NDArray[Any]) -> FloatArray:
        del image
        return np.eye(self.action_spec.bins, dtype=np.float32)[[self.action_spec.bins // 2] * self.action_spec.size]


def test_a_function_that_opens_environments_is_enough(make_env: Callable[..., Any], tmp_path: Path) -> None:
    policy = Still(make_env().action_spec)
    report = evaluate_closed_loop(policy, lambda _task: make_env(), ["near"], 3, out=tmp_path)
    assert report.table.splitlines()[0].split() == ["task", "policy", "random"]  # no expert, no shared scene
    assert [task.trials for task in report.tasks] == [3]
    assert json.loads((tmp_path / "results.json").read_text())["tasks"][0]["expert"] is None
    assert "Closed-loop evaluation" in (tmp_path / "report.html").read_text()
    assert policy.told == ["open the drawer"] * 3


def test_columns_appear_where_there_is_an_expert_or_a_shared_scene(make_env: Callable[..., Any]) -> None:
    def make(task: str) -> Any:
        env = make_env()
        env.instruction = {"near": "open the drawer", "far": "close the drawer"}[task]
        return env

    experts = {"near": type(make_env()).expert_action}
    suite = CustomSuite(
        make_env=make, tasks=("near", "far"), experts=experts, same_scene={"near": "far", "far": "near"}
    )
    report = evaluate_closed_loop(Still(make_env().action_spec), suite, ("near", "far"), 2)
    head, near, far = report.table.splitlines()
    assert head.split() == ["task", "policy", "expert", "replay", "random", "swapped", "instruction"]
    assert near.split()[2] == "100%"
    assert far.split()[2] == "-"


def test_returns_stand_in_the_table_where_returns_are_measured(make_env: Callable[..., Any], tmp_path: Path) -> None:
    suite = CustomSuite(make_env=lambda _task: make_env(), tasks=("near",), max_return=50.0)
    report = evaluate_closed_loop(Still(make_env().action_spec), suite, ("near",), 2, out=tmp_path)
    assert report.table.splitlines()[1].split() == ["near", "0.0", "0.0"]
    (task,) = json.loads((tmp_path / "results.json").read_text())["tasks"]
    assert (task["returns"], task["scores"]) == ({"policy": 0.0, "random": 0.0}, {"policy": 0.0, "random": 0.0})
    page = (tmp_path / "report.html").read_text()
    assert "Return per task" in page
    assert "Success per task" not in page
