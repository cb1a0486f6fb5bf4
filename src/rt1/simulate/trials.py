"""Trials of a policy and its baselines in parallel processes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Literal

import torch

from rt1.actions import FloatArray
from rt1.checkpoint import load_info, load_model
from rt1.common.processes import run_jobs
from rt1.common.progress import count_episode
from rt1.envs.base import Env, ScriptedExpert, TaskSuite, max_return
from rt1.policy.autotune import ActingSettings, setting_for
from rt1.policy.base import BasePolicy
from rt1.policy.policy import Policy
from rt1.simulate.controllers import Expert, PolicyController, RandomActions, Replay
from rt1.simulate.record import MOST_ATTEMPTS
from rt1.simulate.rollout import Controller, Rollout, rollout
from rt1.simulate.seeds import recording_seed, trial_seed

Kind = Literal["policy", "swapped", "paraphrase", "expert", "blind", "random"]
_CHUNK = 5


@dataclass(frozen=True, kw_only=True)
class TrialPlan:
    """Some trials of one kind on one task."""

    kind: Kind  # what acts, under which instruction
    task: str
    instruction: str  # empty: the environment's own, which it tells at reset
    trials: tuple[int, ...]  # equal numbers have equal initial states, for all kinds
    seed: int  # of the evaluation


@dataclass(frozen=True, kw_only=True)
class TrialResult:
    """One counted trial."""

    plan: TrialPlan
    trial: int
    rollout: Rollout  # images: of the first success and the first failure of a plan
    max_return: float | None = None  # largest return of an episode, where returns are measured

    @property
    def score(self) -> float:
        """1 for a success and 0 for a failure, or the return as a fraction of the largest."""
        return float(self.rollout.success) if self.max_return is None else self.rollout.total_reward / self.max_return


def progress_note(results: Sequence[TrialResult]) -> str:
    """Return what the policy reached in its trials so far, for the progress bar."""
    rollouts = [result.rollout for result in results if result.plan.kind == "policy"]
    if not rollouts or results[0].max_return is None:
        return f"policy {sum(rollout.success for rollout in rollouts)} of {len(rollouts)}"
    return f"policy's mean return {sum(rollout.total_reward for rollout in rollouts) / len(rollouts):.1f}"


def plan_trials(kind: Kind, task: str, instruction: str, *, trials: int, seed: int) -> list[TrialPlan]:
    """Cut trials into plans small enough to spread over processes."""
    return [
        TrialPlan(
            kind=kind,
            task=task,
            instruction=instruction,
            trials=tuple(range(first, min(first + _CHUNK, trials))),
            seed=seed,
        )
        for first in range(0, trials, _CHUNK)
    ]


@dataclass(frozen=True, kw_only=True)
class TrialPolicy:
    """The policy that trials are run with."""

    checkpoint: Path
    embodiment: str | None = None  # of a network with several
    acting: ActingSettings = field(default_factory=ActingSettings)


def run_trials(
    plans: Sequence[TrialPlan],
    *,
    suite: TaskSuite,
    policy: TrialPolicy | BasePolicy | None,
    embeddings: Mapping[str, FloatArray],
    workers: int = 0,
    apart: bool = False,
) -> Iterator[list[TrialResult]]:
    """Run plans in parallel processes and yield the results of each plan when it is done.

    Args:
        plans: the trials.
        suite: the environments.
        policy: None if no plan needs one. An open policy acts in this process, with one worker.
        embeddings: text embedding, float32 (E,), of each instruction.
        workers: processes; 0: one per core.
        apart: run no plan in this process; see :func:`rt1.common.processes.run_jobs`.
    """
    for _, results in run_jobs(
        _run_plan,
        plans,
        workers=1 if isinstance(policy, BasePolicy) else workers,
        prepare=_prepare,
        arguments=(suite, policy, embeddings),
        apart=apart,
    ):
        yield results


@dataclass(frozen=True)
class _Worker:
    suite: TaskSuite
    policy: BasePolicy | None


_worker: list[_Worker] = []


def _prepare(suite: TaskSuite, policy: TrialPolicy | BasePolicy | None, embeddings: Mapping[str, FloatArray]) -> None:
    if isinstance(policy, BasePolicy):  # open already, in this process
        _worker[:] = [_Worker(suite, policy)]
        return
    torch.set_num_threads(1)  # the processes share the cores; a thread pool in each would fight over them
    _worker[:] = [_Worker(suite, None if policy is None else open_policy(policy, embeddings))]


def open_policy(policy: TrialPolicy, embeddings: Mapping[str, FloatArray]) -> Policy:
    """Load a policy that takes the sentences of a table of text embeddings, in place of a text encoder."""
    info = load_info(policy.checkpoint, embodiment=policy.embodiment)
    model = load_model(policy.checkpoint, embodiment=policy.embodiment)
    choice = setting_for(policy.checkpoint, model, policy.acting.choice)
    stepper = choice.stepper(model, cond_scale=policy.acting.cond_scale)
    return Policy(stepper, info.action_spec, encode_text=embeddings.__getitem__)


def _run_plan(plan: TrialPlan) -> list[TrialResult]:
    (worker,) = _worker
    looks = plan.kind in ("policy", "swapped", "paraphrase")
    env = worker.suite.open(plan.task, render=looks)
    try:
        return _without_spare_images([_run_trial(worker, env, plan, trial) for trial in plan.trials])
    finally:
        env.close()


def _without_spare_images(results: list[TrialResult]) -> list[TrialResult]:
    """Keep the images of the first success and the first failure only."""
    first = {result.rollout.success: result.trial for result in reversed(results)}
    return [
        result
        if result.trial == first[result.rollout.success]
        else replace(result, rollout=replace(result.rollout, images=()))
        for result in results
    ]


def _run_trial(worker: _Worker, env: Env, plan: TrialPlan, trial: int) -> TrialResult:
    controller = _controller(worker, env, plan, trial)
    result = rollout(
        env,
        controller,
        seed=trial_seed(plan.seed, trial),
        instruction=plan.instruction,
        keep_images=plan.kind == "policy",
    )
    count_episode()
    return TrialResult(plan=plan, trial=trial, rollout=result, max_return=max_return(worker.suite))


def _controller(worker: _Worker, env: Env, plan: TrialPlan, trial: int) -> Controller:
    if plan.kind == "random":
        return RandomActions(env.action_spec, trial_seed(plan.seed, trial))
    if plan.kind not in ("expert", "blind"):
        assert worker.policy is not None
        return PolicyController(worker.policy)
    expert = worker.suite.expert(plan.task)
    if expert is None:
        raise ValueError(f"{plan.task} has no expert; leave the {plan.kind} trials out")
    if plan.kind == "expert":
        return Expert(partial(expert, env))
    return _replay(env, expert, plan, trial, returns=max_return(worker.suite) is not None)


def _replay(env: Env, expert: ScriptedExpert, plan: TrialPlan, trial: int, *, returns: bool) -> Replay:
    """Return the replay of a noise-free expert episode from a recording's seed, a success unless returns count."""
    for attempt in range(MOST_ATTEMPTS):
        episode = rollout(env, Expert(partial(expert, env)), seed=recording_seed(plan.seed, trial, attempt))
        if episode.success or returns:
            return Replay(episode.actions)
    raise ValueError(f"the expert of {plan.task} failed {MOST_ATTEMPTS} times in a row; raise the control rate")
