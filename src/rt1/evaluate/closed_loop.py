"""Closed-loop evaluation: a policy on its tasks, the baselines, and other instructions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rt1.actions import FloatArray
from rt1.checkpoint import CheckpointInfo
from rt1.common.json_config import MOST_EPISODES, MOST_PROCESSES, check_at_least, check_between, to_json
from rt1.common.progress import episode_progress
from rt1.envs.base import TaskSuite, action_spec_of, check_tasks, max_return, picture_backend
from rt1.envs.protocol import protocol_of
from rt1.envs.registry import suite_from_json, suite_to_json
from rt1.evaluate.outcomes import BASELINES, Shard, TrialOutcome, count_outcomes, outcomes_of, shown_trials
from rt1.evaluate.rerun_file import check_rerun_target, trial_episode, write_rerun
from rt1.evaluate.results import ClosedLoopResult
from rt1.policy.base import BasePolicy, recorded_size
from rt1.policy.exported import stored_table
from rt1.policy.exported_manifest import Manifest
from rt1.policy.open import describe, policy_folder, weights_hash
from rt1.policy.policy import ActingSettings
from rt1.simulate.rollout import check_actions_fit
from rt1.simulate.trial_log import TrialLog, trial_log
from rt1.simulate.trials import (
    Kind,
    TrialPlan,
    TrialPolicy,
    plan_trials,
    prepare_policy,
    prepared_policy,
    progress_note,
    run_trials,
    with_images,
)
from rt1.text.embeddings import SentenceEmbeddings
from rt1.text.encoder import TextEncoder, check_same_encoder
from rt1.text.load import load_identified


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
    protocol: str | None = None
    """Published protocol of the environment, which sets tasks, trials and camera. rt1 envs NAME lists them."""
    swapped: bool = True
    """Also run tasks that share a scene under each other's instruction."""
    paraphrases: bool = True
    """Also run each task with a paraphrase that no recording contains. A text table may lack it."""
    embodiment: str | None = None
    """Embodiment that acts. Required if the checkpoint has several."""
    rerun: Path | None = None
    """New .rrd file for the Rerun viewer, with the trials that the report shows (rt1[viz])."""
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


def apply_protocol(suite: TaskSuite, settings: TrialSettings) -> tuple[TaskSuite, TrialSettings]:
    """Return suite and settings with what the settings' protocol sets.

    Raises:
        ValueError: the suite has no such protocol, or another setting contradicts it.
    """
    if settings.protocol is None:
        return suite, settings
    protocol = protocol_of(suite, settings.protocol)
    values: dict[str, Any] = {
        "tasks": check_tasks(suite, protocol.tasks),
        "trials": protocol.trials,
        "swapped": False,
        "paraphrases": False,
    }
    defaults = TrialSettings()
    for name, value in values.items():
        if getattr(settings, name) not in (value, getattr(defaults, name)):
            shown = getattr(settings, name)
            raise ValueError(f"{name} is {shown}, but {protocol.name} sets it. Leave --{name.replace('_', '-')} out")
    if protocol.env:
        description = suite_to_json(suite)
        suite = suite_from_json({**description, "settings": {**description["settings"], **protocol.env}})
    return suite, replace(settings, **values)


def evaluate_closed_loop(
    checkpoint: Path | str,
    *,
    suite: TaskSuite,
    settings: TrialSettings,
    encoder: TextEncoder | None = None,
    log: Path | None = None,
) -> ClosedLoopResult:
    """Run a policy closed loop and count its successes. Arguments and errors are those of :func:`run_evaluation`."""
    suite, settings = apply_protocol(suite, settings)
    about, outcomes = run_evaluation(checkpoint, suite=suite, settings=settings, encoder=encoder, log=log)
    return count_outcomes(about["trials"]["tasks"], outcomes, max_return(suite))


def run_evaluation(
    checkpoint: Path | str,
    *,
    suite: TaskSuite,
    settings: TrialSettings,
    encoder: TextEncoder | None = None,
    shard: Shard | None = None,
    log: Path | None = None,
) -> tuple[dict[str, Any], list[TrialOutcome]]:
    """Run the trials of a policy, or a share of them, and return what determines them and the outcomes.

    Suite and settings are those of :func:`apply_protocol`. Each worker process loads the weights itself. The caller has
    loaded them once, to check them. Finished trials go to the file ``log``, from which an interrupted call resumes.

    Raises:
        ValueError: an unknown task, a text encoder other than the checkpoint's, a checkpoint whose description cannot
            be read, actions that do not fit the environment, or a log of other trials.
    """
    folder = policy_folder(checkpoint)
    info = describe(folder, embodiment=settings.embodiment)
    tasks = check_tasks(suite, settings.tasks or info.provenance.get("tasks", ()))
    check_rerun_target(settings.rerun)
    policy = TrialPolicy(checkpoint=folder, embodiment=settings.embodiment, acting=settings.acting)
    check_env_fits(info, suite, tasks[0])
    plans = _plans(suite, tasks, settings)
    sentences = [plan.instruction for plan in plans if plan.kind not in BASELINES]
    table = stored_table(folder) if encoder is None else None
    if table is not None and {*filter(None, sentences)} <= {*table.sentences}:
        embeddings = SentenceEmbeddings(filter(None, sentences), table, more="" in sentences)
    else:
        embeddings = embed_instructions(info, sentences, encoder)
    if shard is not None:
        plans = shard.share(plans)
    about = {
        "weights": weights_hash(folder),
        "env": suite_to_json(suite),
        "picture_backend": picture_backend(suite),
        "trials": to_json(replace(settings, tasks=tasks, rerun=None, workers=0)),
    }
    with trial_log(log, {"shard": str(shard), **about}) as opened:
        return about, _run(plans, suite, settings, policy, embeddings, opened)


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
    outcomes = _run(_plans(suite, tasks, settings), suite, settings, policy, embeddings or {})
    return count_outcomes(tasks, outcomes, max_return(suite))


def _run(
    plans: Sequence[TrialPlan],
    suite: TaskSuite,
    settings: TrialSettings,
    policy: TrialPolicy | BasePolicy,
    embeddings: Mapping[str, FloatArray],
    log: TrialLog | None = None,
) -> list[TrialOutcome]:
    results = [] if log is None else log.results(plans, max_return(suite))
    finished = {result.plan for result in results}
    missing = [plan for plan in plans if plan not in finished]
    with episode_progress("", sum(len(plan.trials) for plan in plans), unit="trials", done=len(results)) as bar:
        for batch in run_trials(missing, suite=suite, policy=policy, embeddings=embeddings, workers=settings.workers):
            if log is not None:
                log.add(batch)
            results += batch
            bar.note = progress_note(results)
    if settings.rerun is not None:
        prepare_policy(policy, embeddings)
        shown = (with_images(suite, result) for result in shown_trials(results))
        episodes = (trial_episode(prepared_policy(), suite, result) for result in shown)
        write_rerun(settings.rerun, "trials", episodes)
    workers = 1 if isinstance(policy, BasePolicy) else settings.workers
    return outcomes_of(results, suite, workers=workers)


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
    """Raise ``ValueError`` unless actions and pictures of a checkpoint's data are those of a task's environment."""
    check_actions_fit(info.action_spec, action_spec_of(suite, task))
    check_pictures_fit(info, suite)


def check_pictures_fit(info: CheckpointInfo | Manifest, suite: TaskSuite) -> None:
    """Raise ``ValueError`` unless a suite's pictures have the aspect ratio that a checkpoint was trained on.

    A picture of another size is scaled. One of another aspect ratio would be distorted.
    """
    trained = recorded_size(info.provenance)
    if trained is not None:
        (height, width), (rows, columns) = suite.image_size, trained
        if abs(height * columns - width * rows) > max(height, width):
            raise ValueError(
                f"the environment's pictures are {height} x {width}, the policy was trained on {rows} x {columns}, "
                f"must be of one shape. Use --image-size {rows} {columns}, or record with the same settings"
            )
