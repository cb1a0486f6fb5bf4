"""Trials of a policy and its baselines in parallel processes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Literal

import torch

from rt1.actions import FloatArray
from rt1.common.processes import run_jobs
from rt1.common.progress import count_episode
from rt1.envs.base import Env, TaskSuite, draws_later, max_return, open_batch
from rt1.policy.base import BasePolicy
from rt1.policy.policy import ActingSettings, Policy
from rt1.simulate.record import MOST_ATTEMPTS
from rt1.simulate.rollout import (
    Controller,
    Episode,
    Expert,
    PolicyController,
    RandomActions,
    Replay,
    Rollout,
    acting_policy,
    rollout,
)
from rt1.simulate.seeds import recording_seed, trial_seed

Kind = Literal["policy", "swapped", "paraphrase", "expert", "blind", "random"]
_STATE_ONLY = ("expert", "blind", "random")
"""Kinds that read no image."""
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
    rollout: Rollout  # images and snapshots: of the first success and failure of a plan
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
        TrialPlan(kind=kind, task=task, instruction=instruction, trials=numbers, seed=seed)
        for numbers in chunks(trials, _CHUNK)
    ]


def chunks(count: int, size: int) -> list[tuple[int, ...]]:
    """Return the numbers from 0 below ``count``, in order, in tuples of ``size``. The last one may be shorter."""
    return [tuple(range(first, min(first + size, count))) for first in range(0, count, size)]


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
        workers: processes. 0: one per core.
        apart: run no plan in this process. See :func:`rt1.common.processes.run_jobs`.
    """
    jobs = run_jobs(
        partial(_run_plan, suite),
        plans,
        workers=1 if isinstance(policy, BasePolicy) else workers,
        prepare=prepare_policy,
        arguments=(policy, embeddings),
        apart=apart,
    )
    for _, results in jobs:
        yield results


_policy: list[BasePolicy] = []


def prepare_policy(policy: TrialPolicy | BasePolicy | None, embeddings: Mapping[str, FloatArray]) -> None:
    """Load the policy of this process, which takes the sentences of a table of text embeddings. None: there is none."""
    _policy.clear()
    if isinstance(policy, BasePolicy):  # open already, in this process
        _policy.append(policy)
        return
    torch.set_num_threads(1)  # the processes share the cores. A thread pool in each would fight over them
    if policy is None:
        return
    loaded = Policy.from_checkpoint(policy.checkpoint, embodiment=policy.embodiment, threads=1, **vars(policy.acting))
    _policy.append(Policy(loaded.stepper, loaded.action_spec, encode_text=embeddings.__getitem__))


def prepared_policy() -> BasePolicy:
    """Return the policy of this process."""
    (policy,) = _policy
    return policy


def _run_plan(suite: TaskSuite, plan: TrialPlan) -> list[TrialResult]:
    looks = plan.kind not in _STATE_ONLY
    # The trials of a plan are one batch of the policy. So rounding depends on the plan alone, and results are the same
    # on any number of processes and machines. A policy that is not ours holds one episode.
    count = len(plan.trials) if looks and isinstance(prepared_policy(), Policy) else 1
    results: list[TrialResult] = []
    with open_together(suite, plan.task, count, render=looks) as envs:
        for numbers in (plan.trials[first : first + len(envs)] for first in range(0, len(plan.trials), len(envs))):
            episodes = [
                _episode(env, _controller(suite, env, plan, trial), plan, trial)
                for env, trial in zip(envs, numbers, strict=False)
            ]
            for _ in run_together(episodes):
                count_episode()
            results += [
                TrialResult(plan=plan, trial=trial, rollout=episode.result(), max_return=max_return(suite))
                for trial, episode in zip(numbers, episodes, strict=True)
            ]
    # Images take memory: those of the first success and of the first failure stay.
    first = {result.rollout.success: result.trial for result in reversed(results)}
    return [
        result
        if result.trial == first[result.rollout.success]
        else replace(result, rollout=replace(result.rollout, images=(), snapshots=()))
        for result in results
    ]


def _episode(env: Env, controller: Controller, plan: TrialPlan, trial: int) -> Episode:
    return Episode(
        env,
        controller,
        seed=trial_seed(plan.seed, trial),
        instruction=plan.instruction,
        keep_images=plan.kind == "policy",
        keep_snapshots=plan.kind == "policy" and (trial == 0 or draws_later(env)),
    )


def with_images(suite: TaskSuite, result: TrialResult) -> TrialResult:
    """Return a trial with its images. Those of a trial from a log are drawn again by its actions."""
    if result.rollout.images:
        return result
    with closing(suite.open(result.plan.task)) as env:
        episode = _episode(env, Replay(result.rollout.actions), result.plan, result.trial)
        for _ in run_together([episode]):
            pass
        again = episode.result()
        return replace(result, rollout=replace(result.rollout, images=again.images, snapshots=again.snapshots))


@contextmanager
def open_together(suite: TaskSuite, task: str, count: int, *, render: bool = True) -> Iterator[Sequence[Env]]:
    """Open at most ``count`` environments of a task to act in at the same time, and close them at the end."""
    with ExitStack() as stack:
        envs = open_batch(suite, task, count, render=render)
        for env in envs:
            stack.callback(env.close)
        yield envs


def run_together(episodes: Sequence[Episode]) -> Iterator[Episode]:
    """Run episodes one step of each at a time and yield each one at its end. Policies take one batched step."""
    while active := [episode for episode in episodes if not episode.done]:
        _step_policies(active)
        for episode in active:
            episode.step(episode.controller.act(episode.observation))
            if episode.done:
                yield episode


def _step_policies(episodes: Sequence[Episode]) -> None:
    """Compute the next actions of the policies that act in these episodes by one batched step."""
    controllers, sessions, images = [], [], []
    for episode in episodes:
        controller = acting_policy(episode.controller)
        if controller is not None and isinstance(controller.policy, Policy):
            controllers.append(controller)
            sessions.append(controller.policy)
            images.append(episode.observation.image)
    if not sessions:
        return
    logits_SAV = sessions[0].step([session.state for session in sessions], images)
    for controller, session, logits_AV in zip(controllers, sessions, logits_SAV, strict=True):
        controller.batched_action = session.action_spec.decode_logits(logits_AV)[1]


def _controller(suite: TaskSuite, env: Env, plan: TrialPlan, trial: int) -> Controller:
    if plan.kind == "random":
        return RandomActions(env.action_spec, trial_seed(plan.seed, trial))
    if plan.kind not in _STATE_ONLY:
        policy = prepared_policy()
        return PolicyController(policy.new_session() if isinstance(policy, Policy) else policy)
    expert = suite.expert(plan.task)
    if expert is None:
        raise ValueError(f"{plan.task} has no expert. Leave the {plan.kind} trials out")
    controller = Expert(partial(expert, env))
    if plan.kind == "expert":
        return controller
    # Open-loop replay of a noise-free expert episode from a recording's seed, a success unless returns count.
    for attempt in range(MOST_ATTEMPTS):
        episode = rollout(env, controller, seed=recording_seed(plan.seed, trial, attempt))
        if episode.success or max_return(suite) is not None:
            return Replay(episode.actions)
    raise ValueError(f"the expert of {plan.task} failed {MOST_ATTEMPTS} times in a row. Raise the control rate")
