"""Experts and other controllers to RLDS episodes, in parallel processes, resumable, byte for byte reproducible."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import chain, groupby
from pathlib import Path

import numpy as np

from rt1.actions import FloatArray
from rt1.common.folders import working_in
from rt1.common.json_config import MOST_EPISODES, MOST_PROCESSES, check_at_least, check_between
from rt1.common.processes import run_jobs
from rt1.common.progress import count_episode, episode_progress
from rt1.data.rlds.schema import RECORDING_FILE
from rt1.data.rlds.writer import RecordedEpisode, RecordingSettings, RLDSWriter
from rt1.data.sources.images import encode_jpeg
from rt1.envs.base import Env, Observation, TaskSuite, action_spec_of, check_tasks, max_return, recorded_sentences
from rt1.envs.registry import suite_to_json
from rt1.simulate.noise import OrnsteinUhlenbeckNoise
from rt1.simulate.rollout import Controller, Disturbed, Expert, rollout
from rt1.simulate.seeds import recording_seed
from rt1.text.embeddings import SentenceEmbeddings
from rt1.text.encoder import TextEncoder

MOST_ATTEMPTS = 50

MakeController = Callable[[Env], Controller]
"""Returns what acts in an open environment: a script, a policy, teleoperation."""


@dataclass(frozen=True, kw_only=True)
class RecordSettings:
    """What to record."""

    tasks: tuple[str, ...]
    """Task names, or the word all."""
    episodes: int = 50
    """Episodes per task."""
    seed: int = 0
    """Seed of the recording. The same seed gives the same bytes."""
    noise: float = 0.0
    """Largest standard deviation of the noise added to the executed (not the stored) action, as a fraction of half
    the action range. Each episode draws its own between 0 and this. The noise drifts over about a fifth of a second,
    so that it carries the robot off the expert's path and the stored actions show the way back."""
    keep_failures: bool = False
    """Also keep episodes that failed, marked as such. Training reads them as it reads all others."""
    jpeg_quality: int = 95
    """JPEG quality, 1..100."""
    workers: int = 0
    """Processes. 0 means one per core."""
    episodes_per_shard: int = 10
    """Episodes per file. What an interruption loses at most."""

    def __post_init__(self) -> None:
        if not self.tasks or len(set(self.tasks)) != len(self.tasks):
            raise ValueError(f"tasks are {list(self.tasks)}. Give at least one and none twice")
        check_between(self, 1, MOST_EPISODES, "episodes", "episodes_per_shard")
        check_at_least(self, 0, "seed")
        check_between(self, 0, 2, "noise")
        check_between(self, 1, 100, "jpeg_quality")
        check_between(self, 0, MOST_PROCESSES, "workers")


@dataclass(frozen=True, kw_only=True)
class RecordReport:
    """What a recording did."""

    folder: Path
    recorded: int  # episodes recorded by this call
    rejected: dict[str, int]  # task -> discarded episodes, which failed


@dataclass(frozen=True, kw_only=True)
class EpisodeSteps:
    """One episode as it was acted."""

    observations: Sequence[Observation]  # of each step
    quality: int  # of the JPEG images
    actions: FloatArray  # (S, A) actions of the controller, before noise
    rewards: FloatArray  # (S,)
    success: bool
    instruction: str

    @cached_property
    def images(self) -> list[bytes]:
        """The JPEG image of each step. It must be read before the environment closes.

        Reading an image may draw it, which takes most of the time: rejected episodes are never read.
        """
        return [encode_jpeg(observation.image, self.quality) for observation in self.observations]


def record(
    folder: Path,
    *,
    suite: TaskSuite,
    settings: RecordSettings,
    encoder: TextEncoder,
    controller: MakeController | None = None,
) -> RecordReport:
    """Record a suite's experts, or a controller of your own, into ``folder``. Run again to resume.

    Only successful episodes are kept, and all where the suite measures returns in place of success.

    Args:
        folder: data set to write.
        suite: the environments.
        settings: tasks, episodes, seed.
        encoder: text encoder of the instructions.
        controller: acts in place of the experts. It gets the open environment. What cannot be sent to another process,
            as a device, needs one worker.

    Raises:
        ValueError: an unknown task, one without an expert, or one whose expert never succeeds.
        DataError: the folder holds a recording made with other settings.
        SaveError: the folder holds something else.
        LockedError: another process records into the folder.
    """
    tasks = check_tasks(suite, settings.tasks)
    if controller is None:
        cure = "Record other tasks, or a controller of your own with rt1.simulate.record.record"
        check_experts(suite, tasks, cure)
    recording = RecordingSettings(
        name=suite.name,
        image_size=suite.image_size,
        action_spec=action_spec_of(suite, tasks[0]),
        episodes=len(tasks) * settings.episodes,
        episodes_per_shard=settings.episodes_per_shard,
        text_encoder=encoder.identity.to_json(),
        details={
            "env": suite_to_json(suite),
            "control_rate": suite.control_rate,
            "tasks": list(tasks),
            "seed": settings.seed,
            "noise": settings.noise,
            **({"keep_failures": True} if settings.keep_failures else {}),
            "jpeg_quality": settings.jpeg_quality,
        },
    )
    writer = RLDSWriter(folder, recording)
    recorder = _Recorder(suite, settings, tasks, embed_sentences(suite, tasks, encoder), writer, controller)
    shards = writer.missing_shards()
    total = sum(len(recording.shard_episodes(shard)) for shard in shards)
    rejected = Counter(dict.fromkeys(tasks, 0))
    with working_in(folder, ours=(RECORDING_FILE,)), episode_progress(f"recording into {folder}", total) as bar:
        for _, failures in run_jobs(recorder.record_shard, shards, workers=settings.workers):
            rejected.update(failures)
            bar.note = f"{rejected.total()} rejected"
    writer.finish()
    return RecordReport(folder=folder, recorded=total, rejected=dict(rejected))


def check_experts(suite: TaskSuite, tasks: Sequence[str], cure: str) -> None:
    """Raise ``ValueError`` with the names of the tasks that have no expert."""
    if lacking := [task for task in tasks if suite.expert(task) is None]:
        verb = "has" if len(lacking) == 1 else "have"
        raise ValueError(f"{', '.join(lacking)} of {suite.name} {verb} no expert. {cure}")


def embed_sentences(suite: TaskSuite, tasks: tuple[str, ...], encoder: TextEncoder) -> SentenceEmbeddings:
    """Return the text embedding, float32 (E,), of every sentence that recordings of these tasks use."""
    sentences = [recorded_sentences(suite, task) for task in tasks]
    return SentenceEmbeddings(chain.from_iterable(sentences), encoder, more=not all(sentences))


def recorded_sentence(suite: TaskSuite, task: str, index: int) -> str:
    """Return the instruction of a task's episode number ``index``. The episodes take the sentences in turn.

    It is empty where the environment tells it at reset.
    """
    sentences = recorded_sentences(suite, task)
    return sentences[index % len(sentences)] if sentences else ""


def record_episode(
    env: Env, controller: Controller, *, seed: int, noise: float = 0.0, quality: int = 95, instruction: str = ""
) -> EpisodeSteps:
    """Run a controller for one episode under ``instruction``, or the environment's own, and return its steps.

    Raises:
        ValueError: the environment changed its instruction. A recorded episode has one.
    """
    drift = OrnsteinUhlenbeckNoise(env.action_spec, control_rate=env.control_rate, noise=noise, seed=seed)
    disturbed = Disturbed(controller, drift)
    trial = rollout(env, disturbed, seed=seed, instruction=instruction)
    return EpisodeSteps(
        observations=disturbed.observations,
        quality=quality,
        actions=np.stack(disturbed.intended),
        rewards=trial.rewards.astype(np.float32),
        success=trial.success,
        instruction=disturbed.instruction,
    )


@dataclass(frozen=True)
class _Recorder:
    """Records shards. Worker processes get a copy."""

    suite: TaskSuite
    settings: RecordSettings
    tasks: tuple[str, ...]
    embeddings: SentenceEmbeddings
    writer: RLDSWriter
    controller: MakeController | None

    def record_shard(self, shard: int) -> Counter[str]:
        """Record and write one shard. Return the number of rejected episodes per task."""
        rejected: Counter[str] = Counter()
        episodes = []
        numbers = self.writer.settings.shard_episodes(shard)
        for task_number, group in groupby(numbers, lambda number: number // self.settings.episodes):
            task = self.tasks[task_number]
            # One closes before the next opens: two renderers in one process disturb each other.
            with closing(self.suite.open(task)) as env:
                for number in group:
                    episode, failures = self._episode_to_keep(env, task, number)
                    episodes.append(episode)
                    rejected[task] += failures
        self.writer.write_shard(shard, episodes)
        return rejected

    def _episode_to_keep(self, env: Env, task: str, number: int) -> tuple[RecordedEpisode, int]:
        """Return an episode and how many attempts at it failed."""
        settings, returns = self.settings, max_return(self.suite) is not None
        controller, index = self._controller(env, task), number % settings.episodes
        for attempt in range(MOST_ATTEMPTS):
            seed = recording_seed(settings.seed, index, attempt)
            steps = record_episode(
                env,
                controller,
                seed=seed,
                noise=settings.noise,
                quality=settings.jpeg_quality,
                instruction=recorded_sentence(self.suite, task, index),
            )
            if not (steps.success or returns or settings.keep_failures):
                continue
            count_episode()
            episode = RecordedEpisode(
                images=steps.images,
                actions=steps.actions,
                instruction=steps.instruction,
                text_embedding=self.embeddings[steps.instruction],
                task=task,
                success=steps.success,
                seed=seed,
                episode_id=number,
                rewards=steps.rewards if returns else None,
            )
            return episode, attempt
        cure = "Raise the control rate, or check the task and its expert"
        if settings.noise:
            cure = f"Lower the noise ({settings.noise}) or raise the control rate"
        raise ValueError(f"the expert of {task} failed {MOST_ATTEMPTS} times in a row. {cure}")

    def _controller(self, env: Env, task: str) -> Controller:
        if self.controller is not None:
            return self.controller(env)
        expert = self.suite.expert(task)
        assert expert is not None
        return Expert(partial(expert, env))
