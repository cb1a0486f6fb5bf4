"""Published evaluation protocols of a task suite: what they set, and the results published under them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from rt1.common.suggest import lookup
from rt1.envs.base import TaskSuite


@dataclass(frozen=True, kw_only=True)
class PublishedResult:
    """One row of a published table."""

    policy: str
    groups: tuple[float, ...]  # success rate of each group, 0..1, in the protocol's order. Empty: not published
    score: float  # the published mean, 0..1
    inputs: str = ""  # what the policy takes, where the source says it


@dataclass(frozen=True, kw_only=True)
class EvaluationProtocol:
    """A published way to evaluate one policy on a task suite."""

    name: str
    groups: Mapping[str, tuple[str, ...]]  # group -> its tasks, named as in the suite. Each task is in one group
    score: Literal["mean_of_groups", "task_mean"]  # the number to compare
    trials: int  # per task
    env: Mapping[str, Any] = field(default_factory=dict)  # settings of the suite
    published: tuple[PublishedResult, ...]
    notes: tuple[str, ...]  # sentences that the report shows

    @property
    def tasks(self) -> tuple[str, ...]:
        """All tasks, group by group."""
        return tuple(task for tasks in self.groups.values() for task in tasks)


def protocols_of(suite: TaskSuite) -> Mapping[str, EvaluationProtocol]:
    """Return a suite's optional member ``protocols``: its published protocols by name."""
    protocols: Mapping[str, EvaluationProtocol] = getattr(suite, "protocols", {})
    return protocols


def protocol_of(suite: TaskSuite, name: str) -> EvaluationProtocol:
    """Return a protocol of a suite by name.

    Raises:
        ValueError: the suite has none of that name.
    """
    protocols = protocols_of(suite)
    if not protocols:
        raise ValueError(f"{suite.name} has no protocol {name!r}, and no other one. Leave --protocol out")
    return lookup("protocol", name, protocols)


def protocols_with_trials_of(suite: TaskSuite, name: str) -> tuple[EvaluationProtocol, ...]:
    """Return a protocol of a suite by name, then the other ones that score the same trials.

    Raises:
        ValueError: the suite has none of that name.
    """
    first = protocol_of(suite, name)

    def is_other(protocol: EvaluationProtocol) -> bool:
        same_trials = (protocol.trials, protocol.env) == (first.trials, first.env)
        return protocol is not first and same_trials and {*protocol.tasks} == {*first.tasks}

    return first, *filter(is_other, protocols_of(suite).values())
