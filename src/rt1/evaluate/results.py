"""The results of trials, task by task."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import NormalDist


def mean(rates: Sequence[float | None]) -> float | None:
    """Return the mean of the rates, ``None`` where there are none or one of them was not run."""
    numbers = [rate for rate in rates if rate is not None]
    return sum(numbers) / len(numbers) if numbers and len(numbers) == len(rates) else None


@dataclass(frozen=True, kw_only=True)
class SuccessCount:
    """Trials of one task and how many reached its goal."""

    task: str  # whose goal counts
    trials: int  # at least 1
    successes: int  # ``0..trials``

    def __post_init__(self) -> None:
        wilson_interval(self.successes, self.trials)  # refuses counts that cannot be

    @property
    def success(self) -> float:
        """Success rate, 0..1."""
        return self.successes / self.trials

    @property
    def interval95(self) -> tuple[float, float]:
        """The 95 % Wilson interval of the success rate."""
        return wilson_interval(self.successes, self.trials)


@dataclass(frozen=True, kw_only=True)
class InstructedResult(SuccessCount):
    """One task under an instruction: its own, a paraphrase, or another task's. The task's own goal counts."""

    instruction: str  # the sentence given to the policy


@dataclass(frozen=True, kw_only=True)
class TaskResult(InstructedResult):
    """One task under its own instruction, and the baselines in the same evaluation."""

    expert: float | None  # success rate of the scripted expert, 0..1, ``None`` where it was not run
    blind: float | None  # success rate of open-loop replay, 0..1
    random: float | None  # success rate of random actions, 0..1
    mean_steps: float
    clipped: int  # clipped action values, over all trials
    returns: Mapping[str, float] = field(default_factory=dict)  # policy, expert, blind, random -> mean return
    max_return: float | None = None  # largest return, where returns are measured in place of success
    success_video: bytes | None = field(default=None, repr=False)  # mp4
    failure_video: bytes | None = field(default=None, repr=False)  # mp4

    @property
    def scores(self) -> dict[str, float]:
        """Returns as a share of the largest, in percent: V-D4RL's score."""
        return {} if self.max_return is None else {kind: 100 * r / self.max_return for kind, r in self.returns.items()}


@dataclass(frozen=True, kw_only=True)
class ClosedLoopResult:
    """The counted trials."""

    tasks: tuple[TaskResult, ...]  # one per task
    swapped: tuple[InstructedResult, ...]  # one per task that shares its scene
    paraphrases: tuple[InstructedResult, ...]  # one per task with an unseen paraphrase


def group_rates(
    tasks: Sequence[TaskResult], groups: Mapping[str, Sequence[str]], column: str = "success"
) -> dict[str, float | None]:
    """Return the mean of ``success`` or a baseline over the tasks of each group. Tasks are matched by name."""
    rates = {task.task: getattr(task, column) for task in tasks}
    return {group: mean([rates[task] for task in names]) for group, names in groups.items()}


def wilson_interval(successes: int, trials: int, confidence: float = 0.95) -> tuple[float, float]:
    """Return the Wilson interval (low, high) that holds the true success rate with a confidence in (0, 1).

    ``0 <= low <= successes / trials <= high <= 1``.

    Raises:
        ValueError: a number outside its range.

    >>> low, high = wilson_interval(19, 20)
    >>> f"{low:.4f} {high:.4f}"
    '0.7639 0.9911'
    """
    if trials < 1 or not 0 <= successes <= trials:
        raise ValueError(
            f"{successes} successes in {trials} trials, must be at least 1 trial and 0..trials successes. "
            "Count every trial once"
        )
    if not 0 < confidence < 1:
        raise ValueError(f"confidence is {confidence}, must lie between 0 and 1. Use 0.95 for 95 %")
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    rate = successes / trials
    shrink = 1 + z * z / trials
    center = (rate + z * z / (2 * trials)) / shrink
    half = z / shrink * math.sqrt(rate * (1 - rate) / trials + z * z / (4 * trials * trials))
    # At 0 and at all successes one end is the rate itself. Rounding must not move it past.
    return max(0.0, min(rate, center - half)), min(1.0, max(rate, center + half))
