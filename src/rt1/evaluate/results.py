"""What an evaluation counted: the results of its trials, task by task."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

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
