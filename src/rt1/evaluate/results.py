"""What an evaluation counted, and how it was made: the input of the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rt1.evaluate.episode_plot import EpisodePlot
from rt1.evaluate.made import Made
from rt1.evaluate.statistics import wilson_interval


def mean(rates: Sequence[float | None]) -> float | None:
    """Return the mean of the rates; ``None`` where there is none or one of them was not run."""
    known = [rate for rate in rates if rate is not None]
    return sum(known) / len(known) if known and len(known) == len(rates) else None


@dataclass(frozen=True, kw_only=True)
class Counted:
    """Trials of one task and how many reached its goal."""

    task: str
    """Name of the task whose goal counts."""
    trials: int
    """Trials run, at least 1."""
    successes: int
    """Trials that reached the goal, ``0..trials``."""

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
class TaskResult(Counted):
    """One task under its own instruction, and what else was tried on it in the same evaluation."""

    instruction: str
    """The sentence given to the policy."""
    expert: float | None
    """Success rate of the scripted expert, 0..1; ``None`` where it was not run."""
    blind: float | None
    """Success rate of replaying another episode without looking, 0..1."""
    random: float | None
    """Success rate of random actions, 0..1."""
    mean_steps: float
    """Steps per trial, mean."""
    clipped: int
    """Action values outside the bounds, clipped, over all trials."""
    success_video: bytes | None = field(default=None, repr=False)
    """An mp4 of a trial that succeeded."""
    failure_video: bytes | None = field(default=None, repr=False)
    """An mp4 of a trial that failed."""


@dataclass(frozen=True, kw_only=True)
class SwappedResult(Counted):
    """One task while the policy was given the instruction of another; the original goal counts."""

    given_instruction: str
    """The other task's sentence."""


@dataclass(frozen=True, kw_only=True)
class ParaphraseResult(Counted):
    """One task under a sentence that was not in the training text."""

    paraphrase: str
    """The sentence given to the policy."""


@dataclass(frozen=True, kw_only=True)
class Report(Made):
    """Everything one evaluation found and how it was made."""

    tasks: Sequence[TaskResult]
    """One result per task, at least one."""
    swapped: Sequence[SwappedResult] = ()
    """Trials under another task's instruction."""
    paraphrases: Sequence[ParaphraseResult] = ()
    """Trials under a sentence not in the training text."""
    episodes: Sequence[EpisodePlot] = ()
    """Held-out episodes to plot."""
    metrics: Sequence[Mapping[str, Any]] = ()
    """Records of ``metrics.jsonl``."""

    def __post_init__(self) -> None:
        if not self.tasks:
            raise ValueError("a report of 0 tasks; it needs at least 1; evaluate a task first")

    def task_mean(self, column: str) -> float | None:
        """Return the mean over the tasks of ``success``, ``expert``, ``blind`` or ``random``, 0..1.

        ``None`` unless it was run on every task: a mean over other tasks would not compare.
        """
        return mean([getattr(task, column) for task in self.tasks])

    @property
    def swapped_success(self) -> float | None:
        """Mean rate of the original goals under another instruction; ``None`` where not tried."""
        return mean([result.success for result in self.swapped])

    @property
    def paraphrase_success(self) -> float | None:
        """Mean success rate under paraphrases; ``None`` where not tried."""
        return mean([result.success for result in self.paraphrases])
