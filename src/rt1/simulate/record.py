"""Experts in an environment to RLDS episodes, in parallel processes, resumable, byte for byte reproducible."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rt1.actions import FloatArray
from rt1.common.folders import working_in
from rt1.common.json_config import MOST_EPISODES, MOST_PROCESSES, check_at_least, check_between
from rt1.common.processes import run_jobs
from rt1.common.progress import count_episode, count_step, episode_progress
from rt1.data.rlds.schema import RECORDING_FILE
from rt1.data.rlds.writer import RecordedEpisode, RecordingSettings, RLDSWriter
from rt1.data.sources.images import encode_jpeg
from rt1.envs.base import Env, ScriptedExpert, TaskSuite, action_spec_of, check_tasks, recorded_sentences
from rt1.envs.registry import suite_to_json
from rt1.simulate.noise import Drift
from rt1.simulate.seeds import recording_seed
from rt1.text.encoder import TextEncoder

MOST_ATTEMPTS = 50


@dataclass(frozen=True, kw_only=True)
class RecordSettings:
    """What to record."""

    tasks: tuple[str, ...]
    """Task names."""
    episodes: int = 50
    """Episodes per task."""
    seed: int = 0
    """Seed of the recording; the same seed gives the same bytes."""
    noise: float = 0.0
    """Largest standard deviation of the noise added to the executed (not the stored) action, as a fraction of half
    the action range; each episode draws its own between 0 and this. The noise drifts over about a fifth of a second,
    so that it carries the robot off the expert's path and the stored actions show the way back."""
    jpeg_quality: int = 95
    """JPEG quality, 1..100."""
    workers: int = 0
    """Processes; 0 means one per core."""
    episodes_per_shard: int = 10
    """Episodes per file; what an interruption loses at most."""

    def __post_init__(self) -> None:
        if not self.tasks or len(set(self.tasks)) != len(self.tasks):
            raise ValueError(f"tasks are {list(self.tasks)}; give at least one and none twice")
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
    rejected: dict[str, int]  # task -> discarded episodes, in which the expert failed


@dataclass(frozen=True)
class _Work:
    """What a worker process needs besides the shard."""

    suite: TaskSuite
    settings: RecordSettings
    tasks: tuple[str, ...]
    embeddings: dict[str, FloatArray]
    writer: RLDSWriter


_work: list[_Work] = []


def record(folder: Path, *, suite: TaskSuite, settings: RecordSettings, encoder: TextEncoder) -> RecordReport:
    """Record a suite's experts into ``folder``; run again to resume. Only successful episodes are kept.

    Raises:
        ValueError: an unknown task, one without an expert, or one whose expert never succeeds.
        DataError: the folder holds a recording made with other settings.
        SaveError: the folder holds something else.
        LockedError: another process records into the folder.
    """
    tasks = check_tasks(suite, settings.tasks)
    if lacking := [task for task in tasks if suite.expert(task) is None]:
        raise ValueError(f"{', '.join(lacking)} of {suite.name} have no expert; record other tasks, or write an expert")
    sentences = sorted({sentence for task in tasks for sentence in recorded_sentences(suite, task)})
    embeddings = dict(zip(sentences, encoder.encode(sentences), strict=True))
    writer = RLDSWriter(folder, _writer_settings(suite, settings, tasks, encoder))
    shards = list(writer.missing_shards())
    total = sum(len(writer.settings.shard_episodes(shard)) for shard in shards)
    rejected = dict.fromkeys(tasks, 0)
    with working_in(folder, ours=(RECORDING_FILE,)), episode_progress(f"recording into {folder}", total) as bar:
        work = _Work(suite, settings, tasks, embeddings, writer)
        for _, failures in run_jobs(
            _record_shard, shards, workers=settings.workers, prepare=_prepare, arguments=(work,)
        ):
            for task, count in failures.items():
                rejected[task] += count
            bar.note = f"{sum(rejected.values())} rejected"
    writer.finish()
    return RecordReport(folder=folder, recorded=total, rejected=rejected)


def record_episode(
    env: Env, expert: ScriptedExpert, *, seed: int, noise: float, quality: int
) -> tuple[list[bytes], FloatArray, bool]:
    """Run the expert once; return the JPEG images of S steps, the expert's actions (S, A), and whether it succeeded."""
    drift = Drift(env.action_spec, control_rate=env.control_rate, noise=noise, seed=seed)
    observation = env.reset(seed)
    images: list[bytes] = []
    actions: list[FloatArray] = []
    while True:
        action = expert(env)
        images.append(encode_jpeg(observation.image, quality))
        actions.append(action)
        result = env.step(drift.disturb(action))
        count_step(env.max_steps)
        observation = result.observation
        if result.done:
            return images, np.stack(actions), result.success


def _writer_settings(
    suite: TaskSuite, settings: RecordSettings, tasks: tuple[str, ...], encoder: TextEncoder
) -> RecordingSettings:
    return RecordingSettings(
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
            "jpeg_quality": settings.jpeg_quality,
        },
    )


def _prepare(work: _Work) -> None:
    _work[:] = [work]


def _record_shard(shard: int) -> dict[str, int]:
    """Record and write one shard; return the number of rejected episodes per task."""
    (work,) = _work
    rejected: dict[str, int] = {}
    episodes = []
    task, env = "", None
    try:
        for number in work.writer.settings.shard_episodes(shard):
            task_number, index = divmod(number, work.settings.episodes)
            if env is None or work.tasks[task_number] != task:
                if env is not None:
                    env.close()  # before the next one opens: two renderers in one process disturb each other
                task = work.tasks[task_number]
                env = work.suite.open(task)
            episode, failures = _successful_episode(work, env, task, number, index)
            episodes.append(episode)
            rejected[task] = rejected.get(task, 0) + failures
    finally:
        if env is not None:
            env.close()
    work.writer.write_shard(shard, episodes)
    return rejected


def _successful_episode(work: _Work, env: Env, task: str, number: int, index: int) -> tuple[RecordedEpisode, int]:
    sentences, expert = recorded_sentences(work.suite, task), work.suite.expert(task)
    assert expert is not None
    instruction = sentences[index % len(sentences)]
    for attempt in range(MOST_ATTEMPTS):
        seed = recording_seed(work.settings.seed, index, attempt)
        images, actions, success = record_episode(
            env, expert, seed=seed, noise=work.settings.noise, quality=work.settings.jpeg_quality
        )
        if success:
            count_episode()
            episode = RecordedEpisode(
                images=images,
                actions=actions,
                instruction=instruction,
                text_embedding=work.embeddings[instruction],
                task=task,
                success=True,
                seed=seed,
                episode_id=number,
            )
            return episode, attempt
    cure = "raise the control rate, or check the task and its expert"
    if work.settings.noise:
        cure = f"lower the noise ({work.settings.noise}) or raise the control rate"
    raise ValueError(f"the expert of {task} failed {MOST_ATTEMPTS} times in a row; {cure}")
