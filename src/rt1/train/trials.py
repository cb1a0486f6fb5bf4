"""Closed-loop trials during training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rt1.actions import FloatArray
from rt1.checkpoint import CheckpointInfo
from rt1.common.json_config import MOST_EPISODES, MOST_PROCESSES, check_at_least, check_between
from rt1.common.progress import episode_progress
from rt1.envs.base import TaskSuite, check_tasks
from rt1.envs.registry import suite_of, tasks_of
from rt1.evaluate.closed_loop import check_env_fits, embed_instructions
from rt1.simulate.trials import TrialPlan, TrialPolicy, TrialResult, plan_trials, progress_note, run_trials
from rt1.text.encoder import TextEncoder

SUCCESS = "success"
"""Name of the mean success rate over the tasks. That of one is ``success/TASK``."""


@dataclass(frozen=True, kw_only=True)
class ClosedLoopSettings:
    """Trials in the environment that the data were recorded in."""

    every: int = 0
    """Updates between two rounds of trials. 0: none."""
    trials: int = 10
    """Trials per task and round, from the same initial states in every round, none of which was recorded."""
    env: str | None = None
    """Environment by name, or a file that describes it, as for rt1 evaluate. That of the data if not given."""
    tasks: tuple[str, ...] = ()
    """Task names. Default: those of the data, or the only one of the environment."""
    seed: int = 0
    """Seed of the trials."""
    workers: int = 0
    """Processes. 0 means one per core."""

    def __post_init__(self) -> None:
        check_between(self, 1, MOST_EPISODES, "trials")
        check_at_least(self, 0, "every", "seed")
        check_between(self, 0, MOST_PROCESSES, "workers")


@dataclass(frozen=True, kw_only=True)
class ClosedLoop:
    """The prepared trials of a run."""

    suite: TaskSuite
    plans: tuple[TrialPlan, ...]  # the trials of a round
    embeddings: Mapping[str, FloatArray]  # text embedding of each instruction
    workers: int
    embodiment: str | None = None  # which one acts, where the network has several

    def round(self, checkpoint: Path) -> dict[str, float]:
        """Return ``success``, the mean over the tasks, and ``success/TASK`` of each, 0..1.

        Where the suite measures returns, they are the returns as fractions of the largest.

        The trials run in other processes: this process' rendering and torch threads stay untouched.

        Raises:
            WorkerError: a process was killed.
        """
        results: list[TrialResult] = []
        with episode_progress("", sum(len(plan.trials) for plan in self.plans), unit="trials") as bar:
            for batch in run_trials(
                self.plans,
                suite=self.suite,
                policy=TrialPolicy(checkpoint=checkpoint, embodiment=self.embodiment),
                embeddings=self.embeddings,
                workers=self.workers,
                apart=True,
            ):
                results += batch
                bar.note = progress_note(results)
        tasks = sorted({result.plan.task for result in results})
        rates = {task: float(np.mean([r.score for r in results if r.plan.task == task])) for task in tasks}
        return {SUCCESS: float(np.mean([*rates.values()])), **{f"{SUCCESS}/{task}": r for task, r in rates.items()}}


def prepare_closed_loop(
    info: CheckpointInfo, settings: ClosedLoopSettings, *, encoder: TextEncoder | None = None
) -> ClosedLoop:
    """Check and prepare the trials of a run. ``encoder`` None takes the text encoder that ``info`` names.

    Raises:
        ValueError: data without an environment, an unknown task, a text encoder that cannot be loaded, or actions that
            do not fit the environment.
    """
    if settings.env is None and not info.provenance.get("env"):
        raise ValueError(
            "closed-loop trials need an environment, and the data name none. Give one (--closed-loop.env NAME), train "
            "on what `rt1 record` recorded, or leave the trials out (--closed-loop.every 0)"
        )
    suite = suite_of(info.provenance, settings.env)
    tasks = check_tasks(suite, settings.tasks or tasks_of(suite, info.provenance))
    check_env_fits(info, suite, tasks[0])
    instructions = {task: next(iter(suite.sentences(task)), "") for task in tasks}
    plans = [
        plan
        for task, instruction in instructions.items()
        for plan in plan_trials("policy", task, instruction, trials=settings.trials, seed=settings.seed)
    ]
    return ClosedLoop(
        suite=suite,
        plans=tuple(plans),
        embeddings=embed_instructions(info, sorted(set(instructions.values())), encoder),
        workers=settings.workers,
        embodiment=info.provenance.get("embodiment"),
    )
