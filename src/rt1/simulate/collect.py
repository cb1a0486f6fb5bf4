"""A policy's own successful episodes as an RLDS data set: what it can learn from next."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from rt1.actions import FloatArray
from rt1.checkpoint import load_info
from rt1.common.border import reading
from rt1.common.files import replacing, write_text
from rt1.common.json_config import check_at_least, check_between, from_json
from rt1.common.json_files import read_object
from rt1.common.processes import run_jobs
from rt1.common.progress import count_episode, episode_progress
from rt1.data.rlds.schema import RT1_FILE
from rt1.data.rlds.writer import RecordedEpisode, RecordingSettings, RLDSWriter
from rt1.data.sources.images import encode_jpeg
from rt1.envs.base import Env, Observation, TaskSuite, action_spec_of, check_tasks, max_return, recorded_sentences
from rt1.envs.registry import suite_to_json
from rt1.policy.policy import Policy
from rt1.simulate.controllers import PolicyController
from rt1.simulate.noise import Drift
from rt1.simulate.rollout import Controller, Rollout, rollout
from rt1.simulate.seeds import collection_seed
from rt1.simulate.trials import TrialPolicy, open_policy
from rt1.text.encoder import TextEncoder

ATTEMPTS_FILE = "attempts.json"
_PER_JOB = 5


@dataclass(frozen=True, kw_only=True)
class CollectSettings:
    """How a policy collects episodes."""

    tasks: tuple[str, ...]
    """Task names."""
    attempts: int = 50
    """Initial states per task; successful episodes are kept."""
    tries: int = 3
    """Tries from one initial state until one succeeds, each with other noise."""
    noise: float = 0.5
    """Largest noise added to the policy's actions, as when recording experts. Here the noisy actions are stored: they
    reached the goal, perhaps where the policy's own would not have."""
    max_steps: int | None = None
    """Steps after which a try has failed; the environment's own limit if None."""
    jpeg_quality: int = 95
    """JPEG quality, 1..100."""
    workers: int = 0
    """Processes; 0 means one per core."""

    def __post_init__(self) -> None:
        if not self.tasks or len(set(self.tasks)) != len(self.tasks):
            raise ValueError(f"tasks are {list(self.tasks)}; give at least one and none twice")
        check_at_least(self, 1, "attempts", "tries", "max_steps")
        check_between(self, 0, 2, "noise")
        check_between(self, 1, 100, "jpeg_quality")


@dataclass(frozen=True, kw_only=True)
class Collection:
    """What a policy collected."""

    folder: Path  # the data set; without a success none is written
    attempts: Mapping[str, int]  # task -> attempted initial states
    successes: Mapping[str, int]  # task -> kept episodes

    @property
    def episodes(self) -> int:
        """Episodes kept."""
        return sum(self.successes.values())


@dataclass(frozen=True)
class _Job:
    task: str
    attempts: tuple[int, ...]
    file: Path


@dataclass(frozen=True)
class _Work:
    suite: TaskSuite
    settings: CollectSettings
    checkpoint: Path
    embeddings: dict[str, FloatArray]
    seed: tuple[int, int]


@dataclass(frozen=True)
class _Worker:
    work: _Work
    policy: Policy


_worker: list[_Worker] = []


def collect(
    folder: Path,
    checkpoint: Path,
    *,
    suite: TaskSuite,
    settings: CollectSettings,
    encoder: TextEncoder,
    seed: tuple[int, int] = (0, 0),
) -> Collection:
    """Run a policy and write its successful episodes; run again to resume.

    Args:
        folder: data set to write; its details name the policy, seeds and attempts.
        checkpoint: checkpoint folder of the policy.
        suite: the environments.
        settings: tasks, attempts, tries, noise.
        encoder: the checkpoint's text encoder.
        seed: seed and number of the round.

    Raises:
        ValueError: an unknown task.
    """
    tasks = check_tasks(suite, settings.tasks)
    check_can_collect(suite, tasks)
    if (collection := _finished(folder)) is not None:
        return collection
    sentences = sorted({sentence for task in tasks for sentence in recorded_sentences(suite, task)})
    embeddings = dict(zip(sentences, encoder.encode(sentences), strict=True))
    work = _Work(suite, settings, checkpoint, embeddings, seed)
    jobs = _jobs(folder.with_name(f".{folder.name}-attempts"), tasks, settings.attempts)
    missing = [job for job in jobs if not job.file.is_file()]
    total, left = (sum(len(job.attempts) for job in group) for group in (jobs, missing))
    with episode_progress(f"collecting into {folder}", total, unit="attempts", done=total - left):
        for _ in run_jobs(_run, missing, workers=settings.workers, prepare=_prepare, arguments=(work,)):
            pass
    return _write(folder, jobs, work, encoder)


def check_can_collect(suite: TaskSuite, tasks: Sequence[str]) -> None:
    """Raise ``ValueError`` unless tasks have a success and instructions that are known before ``reset``."""
    if max_return(suite) is not None:
        raise ValueError(
            f"{suite.name} measures returns; self-improvement keeps successes. Train on experts in its place"
        )
    if not all(map(suite.sentences, tasks)):
        raise ValueError(
            f"{suite.name} tells its instructions only at reset; self-improvement needs sentences() before"
        )


def _jobs(scratch: Path, tasks: Sequence[str], attempts: int) -> list[_Job]:
    starts = range(0, attempts, _PER_JOB)
    return [
        _Job(task, tuple(range(first, min(first + _PER_JOB, attempts))), scratch / f"{task}-{first:05d}.safetensors")
        for task in tasks
        for first in starts
    ]


def _prepare(work: _Work) -> None:
    torch.set_num_threads(1)  # the processes share the cores
    _worker[:] = [_Worker(work, open_policy(TrialPolicy(checkpoint=work.checkpoint), work.embeddings))]


def _run(job: _Job) -> None:
    """Run a job's attempts and keep what succeeded in its file."""
    (worker,) = _worker
    env = worker.work.suite.open(job.task)
    tensors: dict[str, Any] = {"attempts": np.array(job.attempts)}
    try:
        for attempt in job.attempts:
            tensors |= _attempt(worker, env, job.task, attempt)
            count_episode()
    finally:
        env.close()
    with replacing(job.file) as new_file:
        save_file(tensors, new_file)


def _attempt(worker: _Worker, env: Env, task: str, attempt: int) -> dict[str, Any]:
    settings = worker.work.settings
    seed = collection_seed(*worker.work.seed, attempt)
    instruction = _instruction(worker.work.suite, task, attempt)
    for number in range(settings.tries):
        drift = Drift(env.action_spec, control_rate=env.control_rate, noise=settings.noise, seed=seed + number)
        controller = _Disturbed(PolicyController(worker.policy), drift)
        trial = rollout(
            env, controller, seed=seed, instruction=instruction, keep_images=True, max_steps=settings.max_steps
        )
        if trial.success:
            return _tensors(attempt, trial, settings.jpeg_quality)
    return {}


def _tensors(attempt: int, trial: Rollout, quality: int) -> dict[str, Any]:
    images = [encode_jpeg(image, quality) for image in trial.images[:-1]]  # the last one has no action
    return {
        f"{attempt}/actions": trial.actions,
        f"{attempt}/jpeg": np.frombuffer(b"".join(images), dtype=np.uint8),
        f"{attempt}/sizes": np.array([len(image) for image in images]),
    }


def _instruction(suite: TaskSuite, task: str, attempt: int) -> str:
    sentences = recorded_sentences(suite, task)
    return sentences[attempt % len(sentences)]


@dataclass(frozen=True)
class _Disturbed:
    """A controller whose actions are disturbed on their way."""

    controller: Controller
    drift: Drift

    def reset(self, instruction: str) -> None:
        self.controller.reset(instruction)

    def act(self, observation: Observation) -> FloatArray:
        return self.drift.disturb(self.controller.act(observation))


def _write(folder: Path, jobs: Sequence[_Job], work: _Work, encoder: TextEncoder) -> Collection:
    kept = [(job, attempt, tensors) for job in jobs for attempt, tensors in _successes(job)]
    names = dict.fromkeys(job.task for job in jobs)
    attempts = {task: sum(len(job.attempts) for job in jobs if job.task == task) for task in names}
    successes = {task: sum(job.task == task for job, _, _ in kept) for task in names}
    if kept:
        info = load_info(work.checkpoint)
        recording = RecordingSettings(
            name=f"{work.suite.name}_own",
            image_size=work.suite.image_size,
            action_spec=action_spec_of(work.suite, jobs[0].task),  # as recordings of its experts have it
            episodes=len(kept),
            text_encoder=encoder.identity.to_json(),
            details={
                "env": suite_to_json(work.suite),
                "control_rate": work.suite.control_rate,
                "tasks": list(names),
                "made_by": {"policy": str(work.checkpoint), **dict(info.provenance)},
                "seed": list(work.seed),
                "noise": work.settings.noise,
                "tries": work.settings.tries,
                "attempts": attempts,
                "successes": successes,
            },
        )
        writer = RLDSWriter(folder, recording)
        for shard in writer.missing_shards():
            numbers = recording.shard_episodes(shard)
            writer.write_shard(shard, [_episode(work, number, *kept[number]) for number in numbers])
        writer.finish()
    write_text(folder / ATTEMPTS_FILE, json.dumps({"attempts": attempts, "successes": successes}))
    shutil.rmtree(jobs[0].file.parent)
    return Collection(folder=folder, attempts=attempts, successes=successes)


def _successes(job: _Job) -> Iterable[tuple[int, dict[str, Any]]]:
    with reading(job.file, cure="remove it to run these attempts again", also=(SafetensorError,)):
        tensors = load_file(job.file)
        attempts = [attempt for attempt in tensors["attempts"].tolist() if f"{attempt}/actions" in tensors]
        kept = [{part: tensors[f"{n}/{part}"] for part in ("actions", "jpeg", "sizes")} for n in attempts]
    yield from zip(attempts, kept, strict=True)


def _episode(work: _Work, number: int, job: _Job, attempt: int, tensors: Mapping[str, Any]) -> RecordedEpisode:
    ends = np.cumsum(tensors["sizes"]).tolist()
    data = tensors["jpeg"].tobytes()
    instruction = _instruction(work.suite, job.task, attempt)
    return RecordedEpisode(
        images=[data[start:end] for start, end in zip([0, *ends], ends, strict=False)],
        actions=tensors["actions"],
        instruction=instruction,
        text_embedding=work.embeddings[instruction],
        task=job.task,
        success=True,
        seed=collection_seed(*work.seed, attempt),
        episode_id=number,
    )


def _finished(folder: Path) -> Collection | None:
    """Return what an earlier call collected, if it finished."""
    file = folder / ATTEMPTS_FILE
    if not file.is_file():
        return None
    with reading(file, cure=f"remove {folder} to collect again"):
        collection = from_json(Collection, {**read_object(file), "folder": folder})
    assert (folder / RT1_FILE).is_file() or not collection.episodes
    return collection
