"""Closed-loop evaluation: a policy on its tasks, the baselines, and other instructions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from rt1.actions import FloatArray
from rt1.checkpoint import CheckpointInfo, load_info, resolve
from rt1.common.json_config import MOST_EPISODES, MOST_PROCESSES, check_at_least, check_between
from rt1.common.progress import episode_progress
from rt1.envs.base import TaskSuite, action_spec_of, check_tasks
from rt1.evaluate.results import ParaphraseResult, SwappedResult, TaskResult
from rt1.policy.autotune import ActingSettings
from rt1.policy.base import BasePolicy
from rt1.simulate.rollout import check_actions_fit
from rt1.simulate.trials import Kind, TrialPlan, TrialPolicy, TrialResult, plan_trials, progress_note, run_trials
from rt1.simulate.video import encode_video
from rt1.text.embeddings import SentenceEmbeddings
from rt1.text.encoder import TextEncoder, check_same_encoder
from rt1.text.load import load_identified

BASELINES: tuple[Kind, ...] = ("expert", "blind", "random")


@dataclass(frozen=True, kw_only=True)
class TrialSettings:
    """What to try."""

    tasks: tuple[str, ...]
    """Task names."""
    trials: int = 20
    """Trials per task and kind."""
    seed: int = 0
    """Seed of the trials; no trial has the initial state of a recording."""
    baselines: bool = True
    """Also run the baselines: the scripted expert, open-loop replay and random actions."""
    swapped: bool = True
    """Also run tasks that share a scene under each other's instruction."""
    paraphrases: bool = True
    """Also run each task under a sentence that no recording uses."""
    embodiment: str | None = None
    """Embodiment of the policy, if the network has several."""
    acting: ActingSettings = field(default_factory=ActingSettings)
    """How the policy acts."""
    workers: int = 0
    """Processes; 0 means one per core."""

    def __post_init__(self) -> None:
        if not self.tasks or len(set(self.tasks)) != len(self.tasks):
            raise ValueError(f"tasks are {list(self.tasks)}; give at least one and none twice")
        check_between(self, 1, MOST_EPISODES, "trials")
        check_at_least(self, 0, "seed")
        check_between(self, 0, MOST_PROCESSES, "workers")


@dataclass(frozen=True, kw_only=True)
class ClosedLoopResult:
    """The counted trials."""

    tasks: tuple[TaskResult, ...]  # one per task
    swapped: tuple[SwappedResult, ...]  # one per task that shares its scene
    paraphrases: tuple[ParaphraseResult, ...]  # one per task with an unseen paraphrase


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
    folder = resolve(checkpoint)
    tasks = check_tasks(suite, settings.tasks)
    info = load_info(folder, embodiment=settings.embodiment)
    policy = TrialPolicy(checkpoint=folder, embodiment=settings.embodiment, acting=settings.acting)
    check_env_fits(info, suite, tasks[0])
    sentences = [plan.instruction for plan in _plans(suite, tasks, settings) if plan.kind not in BASELINES]
    return evaluate_policy(
        policy, suite=suite, settings=settings, embeddings=embed_instructions(info, sentences, encoder)
    )


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
            bar.note = progress_note(results)
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
    info: CheckpointInfo, sentences: Sequence[str], encoder: TextEncoder | None
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
            raise ValueError("the checkpoint names no text encoder; give the one its embeddings come from")
        encoder = load_identified(identity)
    if identity is not None:
        check_same_encoder(identity, encoder.identity)
    return SentenceEmbeddings(filter(None, sentences), encoder, more="" in sentences)


def check_env_fits(info: CheckpointInfo, suite: TaskSuite, task: str) -> None:
    """Raise ``ValueError`` unless actions and pictures of a checkpoint's data are those of a task's environment."""
    check_actions_fit(info.action_spec, action_spec_of(suite, task))
    check_pictures_fit(info, suite)


def check_pictures_fit(info: CheckpointInfo, suite: TaskSuite) -> None:
    """Raise ``ValueError`` unless a suite's pictures have the aspect ratio that a checkpoint was trained on.

    A picture of another size is scaled. One of another aspect ratio would be distorted.
    """
    trained = info.provenance.get("image_size")
    if trained is not None:  # earlier versions did not store it
        (height, width), (rows, columns) = suite.image_size, trained
        if abs(height * columns - width * rows) > max(height, width):
            raise ValueError(
                f"the environment's pictures are {height} x {width}, the policy was trained on {rows} x {columns}, "
                f"must be of one shape. Use --image-size {rows} {columns}, or record with the same settings"
            )


def _count(tasks: Sequence[str], results: Sequence[TrialResult], rate: float) -> ClosedLoopResult:
    def of(kind: Kind, task: str) -> list[TrialResult]:
        return sorted((r for r in results if (r.plan.kind, r.plan.task) == (kind, task)), key=lambda r: r.trial)

    swapped, paraphrases = [], []
    for task in tasks:
        if others := of("swapped", task):
            swapped.append(SwappedResult(task=task, given_instruction=others[0].plan.instruction, **_counted(others)))
        if others := of("paraphrase", task):
            paraphrases.append(ParaphraseResult(task=task, paraphrase=others[0].plan.instruction, **_counted(others)))
    return ClosedLoopResult(
        tasks=tuple(
            _task_result(of("policy", task), {kind: of(kind, task) for kind in BASELINES}, rate) for task in tasks
        ),
        swapped=tuple(swapped),
        paraphrases=tuple(paraphrases),
    )


def _task_result(
    trials: Sequence[TrialResult], baselines: Mapping[str, Sequence[TrialResult]], control_rate: float
) -> TaskResult:
    return TaskResult(
        task=trials[0].plan.task,
        instruction=trials[0].plan.instruction or "known after reset only",
        expert=_success_rate(baselines["expert"]),
        blind=_success_rate(baselines["blind"]),
        random=_success_rate(baselines["random"]),
        returns=_returns({"policy": trials, **baselines}),
        max_return=trials[0].max_return,
        mean_steps=float(np.mean([r.rollout.steps for r in trials])),
        clipped=sum(r.rollout.clipped for r in trials),
        success_video=_video([r for r in trials if r.rollout.success], control_rate),
        failure_video=_video([r for r in trials if not r.rollout.success], control_rate),
        **_counted(trials),
    )


def _returns(results: Mapping[str, Sequence[TrialResult]]) -> dict[str, float]:
    """Return the mean return of each kind of trials, where the suite measures returns."""
    return {
        kind: float(np.mean([r.rollout.total_reward for r in trials]))
        for kind, trials in results.items()
        if trials and trials[0].max_return is not None
    }


def _counted(results: Sequence[TrialResult]) -> dict[str, int]:
    return {"trials": len(results), "successes": sum(r.rollout.success for r in results)}


def _success_rate(results: Sequence[TrialResult]) -> float | None:
    return sum(r.rollout.success for r in results) / len(results) if results else None


def _video(results: Sequence[TrialResult], control_rate: float) -> bytes | None:
    """Return the first trial as a video, or None if there is none."""
    return encode_video(results[0].rollout.images, fps=control_rate) if results else None
