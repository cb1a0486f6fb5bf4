"""Closed-loop evaluation: a policy on its tasks, the baselines, and other instructions."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from rt1.actions import FloatArray
from rt1.checkpoint import CheckpointInfo
from rt1.common.json_config import MOST_EPISODES, MOST_PROCESSES, check_at_least, check_between
from rt1.common.progress import episode_progress
from rt1.envs.base import TaskSuite, action_spec_of, check_tasks
from rt1.evaluate.results import InstructedResult, TaskResult
from rt1.policy.base import BasePolicy
from rt1.policy.exported import stored_table
from rt1.policy.exported_manifest import Manifest
from rt1.policy.open import describe, policy_folder
from rt1.policy.policy import ActingSettings
from rt1.simulate.rollout import Rollout, check_actions_fit
from rt1.simulate.trials import Kind, TrialPlan, TrialPolicy, TrialResult, plan_trials, run_trials
from rt1.simulate.video import encode_video
from rt1.text.embeddings import SentenceEmbeddings
from rt1.text.encoder import TextEncoder, check_same_encoder
from rt1.text.load import load_identified

BASELINES: tuple[Kind, ...] = ("expert", "blind", "random")


@dataclass(frozen=True, kw_only=True)
class TrialSettings:
    """What to try."""

    tasks: tuple[str, ...] = ()
    """Task names. Default: the tasks of the training data."""
    trials: int = 20
    """Trials per task and kind."""
    seed: int = 0
    """Seed of the trials. No trial has the initial state of a recording."""
    workers: int = 0
    """Number of processes. 0 means one per core."""
    baselines: bool = True
    """Also run the scripted expert, open-loop replay and random actions."""
    swapped: bool = True
    """Also run tasks that share a scene under each other's instruction."""
    paraphrases: bool = True
    """Also run each task with a paraphrase that no recording contains. A text table may lack it."""
    embodiment: str | None = None
    """Embodiment that acts. Required if the checkpoint has several."""
    acting: ActingSettings = field(default_factory=ActingSettings)
    """How the network runs."""

    def __post_init__(self) -> None:
        if self.trials == 0:
            raise ValueError(
                "trials is 0, must be at least 1. For recorded episodes use rt1 evaluate-offline RUN --data DATA"
            )
        check_between(self, 1, MOST_EPISODES, "trials")
        check_at_least(self, 0, "seed")
        check_between(self, 0, MOST_PROCESSES, "workers")


@dataclass(frozen=True, kw_only=True)
class ClosedLoopResult:
    """The counted trials."""

    tasks: tuple[TaskResult, ...]  # one per task
    swapped: tuple[InstructedResult, ...]  # one per task that shares its scene
    paraphrases: tuple[InstructedResult, ...]  # one per task with an unseen paraphrase


def evaluate_closed_loop(
    checkpoint: Path | str,
    *,
    suite: TaskSuite,
    settings: TrialSettings,
    encoder: TextEncoder | None = None,
) -> ClosedLoopResult:
    """Run a policy closed loop and count its successes.

    Each worker process loads the weights itself. The caller has loaded them once, to check them.

    Raises:
        ValueError: an unknown task, a text encoder other than the checkpoint's, a checkpoint whose description cannot
            be read, or actions that do not fit the environment.
    """
    folder = policy_folder(checkpoint)
    info = describe(folder, embodiment=settings.embodiment)
    tasks = check_tasks(suite, settings.tasks or info.provenance.get("tasks", ()))
    policy = TrialPolicy(checkpoint=folder, embodiment=settings.embodiment, acting=settings.acting)
    check_env_fits(info, suite, tasks[0])
    sentences = [plan.instruction for plan in _plans(suite, tasks, settings) if plan.kind not in BASELINES]
    table = stored_table(folder) if encoder is None else None
    if table is not None and {*filter(None, sentences)} <= {*table.sentences}:
        embeddings = SentenceEmbeddings(filter(None, sentences), table, more="" in sentences)
    else:
        embeddings = embed_instructions(info, sentences, encoder)
    return evaluate_policy(policy, suite=suite, settings=settings, embeddings=embeddings)


def evaluate_policy(
    policy: TrialPolicy | BasePolicy,
    *,
    suite: TaskSuite,
    settings: TrialSettings,
    embeddings: Mapping[str, FloatArray] | None = None,
) -> ClosedLoopResult:
    """Run a policy closed loop and count its successes.

    Args:
        policy: a checkpoint, or an open policy, which acts in this process and encodes its instructions itself.
        suite: the environments.
        settings: tasks, trials, seed.
        embeddings: text embeddings of the instructions, for a checkpoint.
    """
    tasks = check_tasks(suite, settings.tasks)
    plans = _plans(suite, tasks, settings)
    results: list[TrialResult] = []
    with episode_progress("trials", sum(len(plan.trials) for plan in plans), unit="trials") as bar:
        for batch in run_trials(
            plans,
            suite=suite,
            policy=policy,
            embeddings={} if embeddings is None else embeddings,
            workers=settings.workers,
        ):
            results += batch
            successes = [r.rollout.success for r in results if r.plan.kind == "policy"]
            bar.note = f"policy {sum(successes)} of {len(successes)}"
    return _count(tasks, results, suite.control_rate)


def _plans(suite: TaskSuite, tasks: Sequence[str], settings: TrialSettings) -> list[TrialPlan]:
    plans: list[TrialPlan] = []

    def add(kind: Kind, task: str, instruction: str) -> None:
        plans.extend(plan_trials(kind, task, instruction, trials=settings.trials, seed=settings.seed))

    for task in tasks:
        sentences = suite.sentences(task) or ("",)
        add("policy", task, sentences[0])
        other = suite.same_scene_task(task)
        if settings.swapped and other in tasks and (others := suite.sentences(str(other))):
            add("swapped", task, others[0])
        if settings.paraphrases and len(sentences) > 1:
            add("paraphrase", task, sentences[-1])
        for kind in BASELINES if settings.baselines else ():
            if kind == "random" or suite.expert(task) is not None:
                add(kind, task, sentences[0])
    return plans


def embed_instructions(
    info: CheckpointInfo | Manifest, sentences: Sequence[str], encoder: TextEncoder | None
) -> SentenceEmbeddings:
    """Return the text embedding of each sentence, float32 (E,).

    An empty sentence among them is one that the environment tells at reset: then others are encoded when they come.
    ``encoder`` None loads the one that the checkpoint names.

    Raises:
        ValueError: there is no encoder, it cannot be loaded, or it is not the checkpoint's.
    """
    identity = info.text_encoder
    if encoder is None:
        if identity is None:
            raise ValueError("the checkpoint names no text encoder. Give the one its embeddings come from")
        encoder = load_identified(identity)
    if identity is not None:
        check_same_encoder(identity, encoder.identity)
    return SentenceEmbeddings(filter(None, sentences), encoder, more="" in sentences)


def check_env_fits(info: CheckpointInfo | Manifest, suite: TaskSuite, task: str) -> None:
    """Raise ``ValueError`` unless actions and pictures of a checkpoint's data are those of a task's environment.

    A picture of another size is scaled. One of another shape would be distorted, and is refused.
    """
    check_actions_fit(info.action_spec, action_spec_of(suite, task))
    trained = info.provenance.get("image_size")
    if trained is not None:  # earlier versions did not store it
        (height, width), (rows, columns) = suite.image_size, trained
        if abs(height * columns - width * rows) > max(height, width):
            raise ValueError(
                f"the environment's pictures are {height} x {width}, the policy was trained on {rows} x {columns}, "
                f"must be of one shape. Use --image-size {rows} {columns}, or record with the same settings"
            )


def _count(tasks: Sequence[str], results: Sequence[TrialResult], rate: float) -> ClosedLoopResult:
    trials: dict[tuple[Kind, str], list[TrialResult]] = defaultdict(list)
    for result in sorted(results, key=lambda result: result.trial):
        trials[result.plan.kind, result.plan.task].append(result)

    def instructed(kind: Kind) -> tuple[InstructedResult, ...]:
        return tuple(InstructedResult(**_counted(trials[kind, task])) for task in tasks if trials[kind, task])

    return ClosedLoopResult(
        tasks=tuple(
            TaskResult(
                **_counted(trials["policy", task]),
                expert=_success_rate(trials["expert", task]),
                blind=_success_rate(trials["blind", task]),
                random=_success_rate(trials["random", task]),
                returns=_returns({kind: trials[kind, task] for kind in ("policy", *BASELINES)}),
                max_return=trials["policy", task][0].max_return,
                **_rollout_figures([result.rollout for result in trials["policy", task]], rate),
            )
            for task in tasks
        ),
        swapped=instructed("swapped"),
        paraphrases=instructed("paraphrase"),
    )


def _returns(results: Mapping[str, Sequence[TrialResult]]) -> dict[str, float]:
    """Return the mean return of each kind of trials, where the suite measures returns."""
    return {
        kind: float(np.mean([result.rollout.total_reward for result in trials]))
        for kind, trials in results.items()
        if trials and trials[0].max_return is not None
    }


def _counted(results: Sequence[TrialResult]) -> dict[str, Any]:
    """Return the fields of an :class:`InstructedResult`."""
    plan, successes = results[0].plan, sum(result.rollout.success for result in results)
    instruction = plan.instruction or "known after reset only"
    return {"task": plan.task, "instruction": instruction, "trials": len(results), "successes": successes}


def _success_rate(results: Sequence[TrialResult]) -> float | None:
    return sum(result.rollout.success for result in results) / len(results) if results else None


def _rollout_figures(rollouts: Sequence[Rollout], control_rate: float) -> dict[str, Any]:
    """Return the fields of a :class:`TaskResult` that are about the policy's rollouts."""
    videos = {}
    for success, name in ((True, "success_video"), (False, "failure_video")):
        images = next((rollout.images for rollout in rollouts if rollout.success == success), None)
        videos[name] = None if images is None else encode_video(images, fps=control_rate)
    steps = float(np.mean([rollout.steps for rollout in rollouts]))
    return {"mean_steps": steps, "clipped": sum(rollout.clipped for rollout in rollouts), **videos}
