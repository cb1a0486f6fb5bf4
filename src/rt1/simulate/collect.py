"""A policy's own successful episodes as an RLDS data set: what it can learn from next."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
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
from rt1.envs.base import Env, TaskSuite, action_spec_of, check_tasks, max_return
from rt1.envs.registry import suite_to_json
from rt1.policy.policy import ActingSettings
from rt1.simulate.noise import OrnsteinUhlenbeckNoise
from rt1.simulate.record import embed_sentences, recorded_sentence
from rt1.simulate.rollout import Disturbed, PolicyController, rollout
from rt1.simulate.seeds import collection_seed
from rt1.simulate.trials import TrialPolicy, chunks, prepare_policy, prepared_policy
from rt1.text.encoder import TextEncoder

ATTEMPTS_FILE = "attempts.json"
_PER_JOB = 5


@dataclass(frozen=True, kw_only=True)
class CollectSettings:
    """How a policy collects episodes."""

    tasks: tuple[str, ...]
    """Task names."""
    attempts: int = 50
    """Initial states per task. Successful episodes are kept."""
    tries: int = 3
    """Tries from one initial state until one succeeds, each with other noise."""
    noise: float = 0.5
    """Largest noise added to the policy's actions, as when recording experts. Here the noisy actions are stored: they
    reached the goal, perhaps where the policy's own would not have."""
    max_steps: int | None = None
    """Steps after which a try has failed. The environment's own limit if None."""
    jpeg_quality: int = 95
    """JPEG quality, 1..100."""
    workers: int = 0
    """Processes. 0 means one per core."""
    engine: str | None = None
    """What runs the policy, see :class:`rt1.policy.policy.ActingSettings`."""

    def __post_init__(self) -> None:
        if not self.tasks or len(set(self.tasks)) != len(self.tasks):
            raise ValueError(f"tasks are {list(self.tasks)}; give at least one and none twice")
        check_at_least(self, 1, "attempts", "tries", "max_steps")
        check_between(self, 0, 2, "noise")
        check_between(self, 1, 100, "jpeg_quality")


@dataclass(frozen=True, kw_only=True)
class Collection:
    """What a policy collected."""

    folder: Path  # the data set. Without a success none is written
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


def collect(
    folder: Path,
    checkpoint: Path,
    *,
    suite: TaskSuite,
    settings: CollectSettings,
    encoder: TextEncoder,
    seed: tuple[int, int] = (0, 0),
) -> Collection:
    """Run a policy and write its successful episodes. Run again to resume.

    Args:
        folder: data set to write. Its details name the policy, seeds and attempts.
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
    collector = _Collector(suite, settings, embed_sentences(suite, tasks, encoder), seed)
    jobs = _jobs(folder.with_name(f".{folder.name}-attempts"), tasks, settings.attempts)
    missing = [job for job in jobs if not job.file.is_file()]
    total, left = (sum(len(job.attempts) for job in group) for group in (jobs, missing))
    acting = ActingSettings(engine=settings.engine)
    arguments = (TrialPolicy(checkpoint=checkpoint, acting=acting), collector.embeddings)
    with episode_progress(f"collecting into {folder}", total, unit="attempts", done=total - left):
        for _ in run_jobs(
            collector.run, missing, workers=settings.workers, prepare=prepare_policy, arguments=arguments
        ):
            pass
    episodes = [episode for job in jobs for episode in collector.episodes(job)]
    successes = Counter(episode.task for episode in episodes)
    counts = {
        "attempts": dict.fromkeys(tasks, settings.attempts),
        "successes": {task: successes[task] for task in tasks},
    }
    if episodes:
        details = {
            "env": suite_to_json(suite),
            "control_rate": suite.control_rate,
            "tasks": list(tasks),
            "made_by": {"policy": str(checkpoint), **dict(load_info(checkpoint).provenance)},
            "seed": list(seed),
            "noise": settings.noise,
            "tries": settings.tries,
            **counts,
        }
        _write(folder, suite, episodes, encoder, details)
    write_text(folder / ATTEMPTS_FILE, json.dumps(counts))
    shutil.rmtree(jobs[0].file.parent)
    return Collection(folder=folder, **counts)


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
    return [
        _Job(task, numbers, scratch / f"{task}-{numbers[0]:05d}.safetensors")
        for task in tasks
        for numbers in chunks(attempts, _PER_JOB)
    ]


def _write(
    folder: Path, suite: TaskSuite, episodes: Sequence[RecordedEpisode], encoder: TextEncoder, details: dict[str, Any]
) -> None:
    """Write the episodes as a data set."""
    recording = RecordingSettings(
        name=f"{suite.name}_own",
        image_size=suite.image_size,
        action_spec=action_spec_of(suite, episodes[0].task),  # as recordings of its experts have it
        episodes=len(episodes),
        text_encoder=encoder.identity.to_json(),
        details=details,
    )
    writer = RLDSWriter(folder, recording)
    for shard in writer.missing_shards():
        numbers = recording.shard_episodes(shard)
        writer.write_shard(shard, [replace(episodes[number], episode_id=number) for number in numbers])
    writer.finish()


@dataclass(frozen=True)
class _Collector:
    """Runs attempts and reads their files. Worker processes get a copy, and the policy from ``prepare_policy``."""

    suite: TaskSuite
    settings: CollectSettings
    embeddings: dict[str, FloatArray]
    seed: tuple[int, int]

    def run(self, job: _Job) -> None:
        """Run a job's attempts and write the successes to its file."""
        tensors: dict[str, Any] = {"attempts": np.array(job.attempts)}
        with closing(self.suite.open(job.task)) as env:
            for attempt in job.attempts:
                tensors |= self._attempt(env, job.task, attempt)
                count_episode()
        with replacing(job.file) as new_file:
            save_file(tensors, new_file)

    def _attempt(self, env: Env, task: str, attempt: int) -> dict[str, Any]:
        """Return the tensors of the first try that succeeds."""
        seed = collection_seed(*self.seed, attempt)
        instruction = recorded_sentence(self.suite, task, attempt)
        for number in range(self.settings.tries):
            drift = OrnsteinUhlenbeckNoise(
                env.action_spec, control_rate=env.control_rate, noise=self.settings.noise, seed=seed + number
            )
            controller = Disturbed(PolicyController(prepared_policy()), drift)
            trial = rollout(env, controller, seed=seed, instruction=instruction, max_steps=self.settings.max_steps)
            if trial.success:
                images = [encode_jpeg(seen.image, self.settings.jpeg_quality) for seen in controller.observations]
                return {
                    f"{attempt}/actions": trial.actions,
                    f"{attempt}/jpeg": np.frombuffer(b"".join(images), dtype=np.uint8),
                    f"{attempt}/sizes": np.array([len(image) for image in images]),
                }
        return {}

    def episodes(self, job: _Job) -> list[RecordedEpisode]:
        """Return the successes in a job's file. Their number is set when they are written."""
        with reading(job.file, cure="remove it to run these attempts again", also=(SafetensorError,)):
            tensors = load_file(job.file)
            attempts = [attempt for attempt in tensors["attempts"].tolist() if f"{attempt}/actions" in tensors]
            return [self._episode(job.task, attempt, tensors) for attempt in attempts]

    def _episode(self, task: str, attempt: int, tensors: Mapping[str, Any]) -> RecordedEpisode:
        ends = np.cumsum(tensors[f"{attempt}/sizes"]).tolist()
        data = tensors[f"{attempt}/jpeg"].tobytes()
        instruction = recorded_sentence(self.suite, task, attempt)
        return RecordedEpisode(
            images=[data[start:end] for start, end in pairwise([0, *ends])],
            actions=tensors[f"{attempt}/actions"],
            instruction=instruction,
            text_embedding=self.embeddings[instruction],
            task=task,
            success=True,
            seed=collection_seed(*self.seed, attempt),
            episode_id=0,
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
