"""Trials of an open policy in environments of your own: table and page from one call."""

from __future__ import annotations

import datetime
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rt1.common.system import commit, describe_machine
from rt1.envs.base import TaskSuite
from rt1.envs.custom import CustomSuite
from rt1.evaluate.closed_loop import TrialSettings, evaluate_policy
from rt1.model.heads import parameter_counts
from rt1.policy.base import BasePolicy
from rt1.policy.policy import Policy
from rt1.report.closed_loop import Report, write_report
from rt1.report.shards import NOTES, settings_table


def evaluate_closed_loop(
    policy: BasePolicy,
    make_env: Callable[[str], Any] | TaskSuite,
    tasks: Sequence[str],
    trials: int = 20,
    *,
    seed: int = 0,
    out: Path | str | None = None,
    baselines: bool = True,
) -> Report:
    """Run a policy on tasks in this process, count its successes, and return the report.

    ``report.table`` is its text. The columns of expert and open-loop replay appear where a task has an expert, that of
    the swapped instruction where two tasks share a scene.

    Args:
        policy: an open policy. It encodes its instructions itself.
        make_env: opens the environment of a task: an ``rt1.envs.base.Env`` or a ``gymnasium.Env``. Or a task suite.
            ``rt1.envs.custom.CustomSuite`` adds experts to such a function.
        tasks: task names.
        trials: trials per task.
        seed: seed of the trials. No trial has the initial state of a recording with the same seed.
        out: folder for ``report.html`` and ``results.json``. None writes nothing.
        baselines: also run expert, open-loop replay and random actions.

    Raises:
        ValueError: an unknown task, or an environment that is not one.
    """
    suite = make_env if isinstance(make_env, TaskSuite) else CustomSuite(make_env=make_env, tasks=tuple(tasks))
    settings = TrialSettings(tasks=tuple(tasks), trials=trials, seed=seed, baselines=baselines, workers=1)
    started = time.monotonic()
    result = evaluate_policy(policy, suite=suite, settings=settings)
    report = Report(
        title="Closed-loop evaluation",
        command="",
        commit=commit(),
        machine=describe_machine(),
        date=datetime.datetime.now(tz=datetime.UTC).date().isoformat(),
        checkpoint=type(policy).__name__,
        seconds={"evaluate": time.monotonic() - started},
        peak_gb=None,
        parameters=parameter_counts(policy.model)["total"] if isinstance(policy, Policy) else 0,
        settings=settings_table(suite, settings),
        notes=tuple(" ".join(note.split()) for note in NOTES),
        tasks=result.tasks,
        swapped=result.swapped,
        paraphrases=result.paraphrases,
    )
    if out is not None:
        write_report(report, Path(out))
    return report
