"""Outcomes of trials as plain data, shares of them, and the results they are counted into."""

from __future__ import annotations

import base64
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from rt1.common.processes import run_jobs
from rt1.common.progress import progress
from rt1.envs.base import TaskSuite
from rt1.evaluate.results import ClosedLoopResult, InstructedResult, TaskResult
from rt1.simulate.trials import Kind, TrialPlan, TrialResult
from rt1.simulate.video import film

BASELINES: tuple[Kind, ...] = ("expert", "blind", "random")
_KINDS: tuple[Kind, ...] = ("policy", "swapped", "paraphrase", *BASELINES)


@dataclass(frozen=True, kw_only=True)
class TrialOutcome:
    """What one trial counts for. Plain JSON."""

    kind: Kind
    task: str
    instruction: str  # empty: the environment's own, which it tells at reset
    trial: int
    success: bool
    steps: int
    clipped: int  # action values outside the bounds
    total_reward: float
    video: str | None = None  # mp4 in base64, of the first success and the first failure of a policy on a task


@dataclass(frozen=True, kw_only=True)
class Shard:
    """A share of an evaluation: number ``number`` of ``count``, from 1."""

    number: int
    count: int

    def __post_init__(self) -> None:
        if not 1 <= self.number <= self.count:
            raise ValueError(
                f"shard is {self}, must be 1/{self.count}..{self.count}/{self.count}. Use K/N, such as 3/8"
            )

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Return the shard of a text such as 3/8."""
        match = re.fullmatch(r"(\d{1,6})/([1-9]\d{0,5})", text)
        if match is None:
            raise ValueError(f"shard is {text!r}, must be K/N with K in 1..N. Use 3/8 for the third of 8")
        return cls(number=int(match[1]), count=int(match[2]))

    def share(self, plans: Sequence[TrialPlan]) -> list[TrialPlan]:
        """Return the plans of this shard. Each shard has about as many of each kind."""
        order = sorted(plans, key=lambda plan: _KINDS.index(plan.kind))
        return order[self.number - 1 :: self.count]


def shown_trials(results: Sequence[TrialResult]) -> list[TrialResult]:
    """Return the trials that a report shows: the first success and the first failure of the policy on each task."""
    shown: dict[tuple[str, bool], TrialResult] = {}
    for result in sorted(results, key=lambda result: result.trial):
        if result.plan.kind == "policy":
            shown.setdefault((result.plan.task, result.rollout.success), result)
    return list(shown.values())


def outcomes_of(results: Sequence[TrialResult], suite: TaskSuite, *, workers: int = 0) -> list[TrialOutcome]:
    """Return the outcomes of trials in their order, with videos of those that a report shows.

    ``workers`` are the processes that draw the videos. 0: one per core.
    """
    shown = shown_trials(results)
    videos: dict[int, bytes] = {}
    with progress("", len(shown), unit="videos", quiet=not shown) as bar:
        for index, video in run_jobs(partial(film, suite), shown, workers=workers):
            videos[id(shown[index])] = video
            bar.update(len(videos))
    outcomes = []
    for result in sorted(results, key=lambda result: result.trial):
        plan, rollout = result.plan, result.rollout
        mp4 = videos.get(id(result))
        outcomes.append(
            TrialOutcome(
                kind=plan.kind,
                task=plan.task,
                instruction=plan.instruction,
                trial=result.trial,
                success=rollout.success,
                steps=rollout.steps,
                clipped=rollout.clipped,
                total_reward=rollout.total_reward,
                video=None if mp4 is None else base64.b64encode(mp4).decode(),
            )
        )
    return outcomes


def count_outcomes(
    tasks: Sequence[str], outcomes: Sequence[TrialOutcome], max_return: float | None
) -> ClosedLoopResult:
    """Count outcomes of all trials, in any order. ``max_return`` is that of the suite."""
    trials: dict[tuple[Kind, str], list[TrialOutcome]] = defaultdict(list)
    for outcome in sorted(outcomes, key=lambda outcome: outcome.trial):
        trials[outcome.kind, outcome.task].append(outcome)

    def instructed(kind: Kind) -> tuple[InstructedResult, ...]:
        return tuple(InstructedResult(**_counted(trials[kind, task])) for task in tasks if trials[kind, task])

    def task_result(task: str) -> TaskResult:
        kinds: dict[Kind, list[TrialOutcome]] = {kind: trials[kind, task] for kind in _KINDS}
        return TaskResult(
            **_counted(kinds["policy"]),
            expert=_success_rate(kinds["expert"]),
            blind=_success_rate(kinds["blind"]),
            random=_success_rate(kinds["random"]),
            returns={} if max_return is None else _mean_returns({k: kinds[k] for k in ("policy", *BASELINES)}),
            max_return=max_return,
            mean_steps=_mean([outcome.steps for outcome in kinds["policy"]]),
            clipped=sum(outcome.clipped for outcome in kinds["policy"]),
            success_video=_video(kinds["policy"], success=True),
            failure_video=_video(kinds["policy"], success=False),
        )

    return ClosedLoopResult(
        tasks=tuple(map(task_result, tasks)), swapped=instructed("swapped"), paraphrases=instructed("paraphrase")
    )


def _counted(outcomes: Sequence[TrialOutcome]) -> dict[str, Any]:
    """Return the fields of an :class:`InstructedResult`."""
    first, successes = outcomes[0], sum(outcome.success for outcome in outcomes)
    instruction = first.instruction or "known after reset only"
    return {"task": first.task, "instruction": instruction, "trials": len(outcomes), "successes": successes}


def _success_rate(outcomes: Sequence[TrialOutcome]) -> float | None:
    return _mean([outcome.success for outcome in outcomes]) if outcomes else None


def _mean_returns(kinds: Mapping[Kind, Sequence[TrialOutcome]]) -> dict[str, float]:
    return {kind: _mean([outcome.total_reward for outcome in outcomes]) for kind, outcomes in kinds.items() if outcomes}


def _mean(numbers: Sequence[float]) -> float:
    return sum(numbers) / len(numbers)


def _video(outcomes: Sequence[TrialOutcome], *, success: bool) -> bytes | None:
    video = next((outcome.video for outcome in outcomes if outcome.success == success), None)
    return None if video is None else base64.b64decode(video)
