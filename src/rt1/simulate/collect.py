"""Episodes of a policy as an RLDS data set to learn from: its own successes, or states that an expert labeled."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
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
from rt1.data.sources.base import CORRECTIONS
from rt1.data.sources.images import encode_jpeg
from rt1.envs.base import Env, TaskSuite, action_spec_of, check_tasks, max_return
from rt1.envs.registry import suite_to_json
from rt1.errors import DataError
from rt1.policy.policy import ActingSettings, Policy
from rt1.simulate.noise import OrnsteinUhlenbeckNoise
from rt1.simulate.record import check_experts, embed_sentences, recorded_sentence
from rt1.simulate.rollout import (
    Controller,
    Disturbed,
    Episode,
    Expert,
    PolicyController,
    PolicyThenExpert,
    within_bounds,
)
from rt1.simulate.seeds import collection_seed
from rt1.simulate.trials import TrialPolicy, chunks, open_together, prepare_policy, prepared_policy, run_together
from rt1.text.encoder import TextEncoder

ATTEMPTS_FILE = "attempts.json"
_PER_JOB = 10
"""Attempts that act together. What an interruption loses at most."""


@dataclass(frozen=True, kw_only=True)
class CollectSettings:
    """How a policy collects episodes."""

    attempts: Mapping[str, int]
    """Initial states of each task. Successful episodes are kept."""
    handover: Mapping[str, int] | None = None
    """Most steps of the policy in each task before the expert takes over. A try draws its own number, up to half of the
    environment's limit. The expert's action is stored for every step. None: there is no expert."""
    tries: int = 3
    """Tries from one initial state until one succeeds, each with other noise and another handover."""
    noise: float = 0.5
    """Largest noise added to the executed actions, as when recording experts. Without an expert the noisy actions are
    stored: they reached the goal, perhaps where the policy's own would not have."""
    max_steps: int | None = None
    """Steps after which a try has failed. The environment's own limit if None."""
    jpeg_quality: int = 95
    """JPEG quality, 1..100."""
    workers: int = 0
    """Processes. 0 means one per core."""
    engine: str | None = None
    """What runs the policy, see :class:`rt1.policy.policy.ActingSettings`."""

    def __post_init__(self) -> None:
        if not self.attempts or min(self.attempts.values()) < 1:
            raise ValueError(f"attempts are {dict(self.attempts)}, must be at least one task, and at least 1 of each")
        check_at_least(self, 1, "tries", "max_steps")
        check_between(self, 0, 2, "noise")
        check_between(self, 1, 100, "jpeg_quality")


@dataclass(frozen=True, kw_only=True)
class Collection:
    """What a policy collected."""

    folder: Path  # the data set. Without a success none is written
    attempts: Mapping[str, int]  # task -> attempted initial states
    successes: Mapping[str, int]  # task -> kept episodes
    failures: Mapping[str, int] = field(default_factory=dict)  # task -> tries that failed, which were left out

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
    details: Mapping[str, Any] | None = None,
) -> Collection:
    """Run a policy, with or without the expert, and write the successful episodes. Run again to resume.

    Args:
        folder: data set to write. Its details name the policy, seeds and attempts.
        checkpoint: checkpoint folder of the policy.
        suite: the environments.
        settings: tasks, attempts, tries, noise.
        encoder: the checkpoint's text encoder.
        seed: seed and number of the round.
        details: further details of the data set.

    Raises:
        ValueError: an unknown task, or one without the expert that is to take over.
    """
    settings = _with_full_names(suite, settings)
    tasks = tuple(settings.attempts)
    check_can_collect(suite, tasks, expert=settings.handover is not None)
    if (collection := _finished(folder)) is not None:
        return collection
    collector = _Collector(suite, settings, embed_sentences(suite, tasks, encoder), seed)
    jobs = _jobs(folder.with_name(f".{folder.name}-attempts"), settings.attempts)
    missing = [job for job in jobs if not job.file.is_file()]
    total, left = (sum(len(job.attempts) for job in group) for group in (jobs, missing))
    acting = ActingSettings(engine=settings.engine)
    arguments = (TrialPolicy(checkpoint=checkpoint, acting=acting), collector.embeddings)
    with episode_progress(f"collecting into {folder}", total, unit="attempts", done=total - left):
        for _ in run_jobs(
            collector.run, missing, workers=settings.workers, prepare=prepare_policy, arguments=arguments
        ):
            pass
    episodes: list[RecordedEpisode] = []
    successes, failures = (Counter(dict.fromkeys(settings.attempts, 0)) for _ in range(2))
    for job in jobs:
        kept, failed = collector.read(job)
        episodes += kept
        successes[job.task] += len(kept)
        failures[job.task] += failed
    counts = {"attempts": dict(settings.attempts), "successes": dict(successes), "failures": dict(failures)}
    if episodes:
        expert = {} if settings.handover is None else {CORRECTIONS: True, "handover": dict(settings.handover)}
        made_by = {"policy": str(checkpoint), **dict(load_info(checkpoint).provenance)}
        facts = {"made_by": made_by, "seed": list(seed), "noise": settings.noise, "tries": settings.tries}
        _write(folder, suite, episodes, encoder, {"tasks": list(tasks), **facts, **expert, **counts, **(details or {})})
    write_text(folder / ATTEMPTS_FILE, json.dumps(counts))
    shutil.rmtree(jobs[0].file.parent)
    return Collection(folder=folder, **counts)


def check_can_collect(suite: TaskSuite, tasks: Sequence[str], *, expert: bool = False) -> None:
    """Raise ``ValueError`` unless tasks have a success, instructions that are known before ``reset``, and an expert."""
    if expert:
        check_experts(suite, tasks, "leave them out of --tasks, or leave --expert out")
    if max_return(suite) is not None:
        raise ValueError(
            f"{suite.name} measures returns. Self-improvement keeps successes. Train on experts in its place"
        )
    if not all(map(suite.sentences, tasks)):
        raise ValueError(
            f"{suite.name} tells its instructions only at reset. Self-improvement needs sentences() before"
        )


def _with_full_names(suite: TaskSuite, settings: CollectSettings) -> CollectSettings:
    names = dict(zip(settings.attempts, check_tasks(suite, tuple(settings.attempts)), strict=True))
    handover = settings.handover and {names[task]: settings.handover[task] for task in names}
    attempts = {names[task]: count for task, count in settings.attempts.items()}
    return replace(settings, attempts=attempts, handover=handover)


def _jobs(scratch: Path, attempts: Mapping[str, int]) -> list[_Job]:
    return [
        _Job(task, numbers, scratch / f"{task}-{numbers[0]:05d}.safetensors")
        for task, count in attempts.items()
        for numbers in chunks(count, _PER_JOB)
    ]


def _write(
    folder: Path, suite: TaskSuite, episodes: Sequence[RecordedEpisode], encoder: TextEncoder, details: dict[str, Any]
) -> None:
    """Write the episodes as a data set."""
    details = {"env": suite_to_json(suite), "control_rate": suite.control_rate, **details}
    recording = RecordingSettings(
        name=f"{suite.name}_{'corrections' if CORRECTIONS in details else 'own'}",
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
        """Run a job's attempts, as many at a time as the suite can, and write the successes to its file."""
        tensors: dict[str, Any] = {"attempts": np.array(job.attempts)}
        missing, failures = job.attempts, 0
        with open_together(self.suite, job.task, len(job.attempts)) as envs:
            for number in range(self.settings.tries):
                for first in range(0, len(missing), len(envs)):
                    tries = [
                        _Try(self, env, job.task, attempt, number)
                        for env, attempt in zip(envs, missing[first:], strict=False)
                    ]
                    for _ in run_together([one.episode for one in tries]):
                        pass
                    for one in tries:
                        stored = one.tensors()
                        tensors |= stored
                        failures += not stored
                        if stored or number == self.settings.tries - 1:
                            count_episode()
                missing = tuple(attempt for attempt in missing if f"{attempt}/actions" not in tensors)
        tensors["failures"] = np.array(failures)
        with replacing(job.file) as new_file:
            save_file(tensors, new_file)

    def read(self, job: _Job) -> tuple[list[RecordedEpisode], int]:
        """Return the successes in a job's file, and the number of failed tries. Writing numbers the episodes."""
        with reading(job.file, cure="Remove it to run these attempts again", also=(SafetensorError,)):
            tensors = load_file(job.file)
            attempts = [attempt for attempt in tensors["attempts"].tolist() if f"{attempt}/actions" in tensors]
            return [self._episode(job.task, attempt, tensors) for attempt in attempts], int(tensors["failures"])

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


class _Try:
    """One try from an initial state: its episode, and what is stored of it."""

    def __init__(self, collector: _Collector, env: Env, task: str, attempt: int, number: int) -> None:
        suite, settings = collector.suite, collector.settings
        seed = collection_seed(*collector.seed, attempt)
        policy = prepared_policy()
        assert isinstance(policy, Policy)
        controller: Controller = (acting := PolicyController(policy.new_session()))
        self._labeled: PolicyThenExpert | None = None
        if settings.handover is not None and (expert := suite.expert(task)) is not None:
            steps = min(settings.handover[task], env.max_steps // 2)
            steps = int(np.random.default_rng((seed + number, 5)).integers(1, max(1, steps) + 1))
            controller = self._labeled = PolicyThenExpert(acting, Expert(partial(expert, env)), steps)
        drift = OrnsteinUhlenbeckNoise(
            env.action_spec, control_rate=env.control_rate, noise=settings.noise, seed=seed + number
        )
        self._attempt, self._quality, self._spec = attempt, settings.jpeg_quality, env.action_spec
        self._disturbed = Disturbed(controller, drift)
        self.episode = Episode(
            env,
            self._disturbed,
            seed=seed,
            instruction=recorded_sentence(suite, task, attempt),
            max_steps=settings.max_steps,
        )

    def tensors(self) -> dict[str, Any]:
        """Return images and actions of a success. The actions are the expert's, or those that were executed."""
        result = self.episode.result()
        if not result.success:
            return {}
        actions = result.actions
        if self._labeled is not None:
            actions = np.stack([within_bounds(self._spec, label) for label in self._labeled.labels])
        images = [encode_jpeg(observation.image, self._quality) for observation in self._disturbed.observations]
        return {
            f"{self._attempt}/actions": actions,
            f"{self._attempt}/jpeg": np.frombuffer(b"".join(images), dtype=np.uint8),
            f"{self._attempt}/sizes": np.array([len(image) for image in images]),
        }


def _finished(folder: Path) -> Collection | None:
    """Return what an earlier call collected, if it finished."""
    file = folder / ATTEMPTS_FILE
    if not file.is_file():
        return None
    with reading(file, cure=f"Remove {folder} to collect again"):
        collection = from_json(Collection, {**read_object(file), "folder": folder})
    if collection.episodes and not (folder / RT1_FILE).is_file():
        raise DataError(f"{folder} lacks {RT1_FILE}, which its {ATTEMPTS_FILE} counts on. Remove it to collect again")
    return collection
