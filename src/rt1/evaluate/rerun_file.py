"""Episodes as a file for the Rerun viewer: images, actions, instruction, attention."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rt1.actions import FloatArray
from rt1.data.sources.base import EpisodeSource, optional_members
from rt1.data.sources.decoding import each_image
from rt1.data.sources.images import encode_jpeg
from rt1.envs.base import Image, TaskSuite
from rt1.errors import SaveError
from rt1.evaluate.episode_trace import stream_episode
from rt1.policy.base import BasePolicy
from rt1.policy.policy import Policy
from rt1.simulate.trials import TrialResult
from rt1.simulate.video import pictures

SUFFIX = ".rrd"


@dataclass(frozen=True, kw_only=True)
class RerunStep:
    """One step of an episode. What is None is left out."""

    image: Image  # the policy's input, uint8 RGB (H, W, 3)
    picture: Image | None = None  # the same scene for people, uint8 RGB (H, W, 3)
    recorded: FloatArray | None = None  # recorded action (A,), physical units
    predicted: FloatArray | None = None  # the policy's action (A,), physical units
    attention: FloatArray | None = None  # TokenLearner's maps (K, rows, columns)


@dataclass(frozen=True, kw_only=True)
class RerunEpisode:
    """One episode under a name of its own."""

    name: str
    instruction: str
    dimension_names: Sequence[str]
    control_rate: float | None  # Hz
    steps: Iterable[RerunStep]


def check_rerun_target(path: Path | None) -> None:
    """Raise unless a file can be written there: before the work begins whose results it gets.

    Raises:
        ValueError: another ending than ``.rrd``.
        SaveError: there is such a file, or none can be written there.
        ModuleNotFoundError: the Rerun SDK is not installed.
    """
    if path is None:
        return
    if path.suffix != SUFFIX:
        raise ValueError(f"rerun is {path}, must end in {SUFFIX}. Use {path.with_suffix(SUFFIX)}")
    if path.exists():
        raise SaveError(f"{path} exists, must be a new file. Remove it, or give another name")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        path.unlink()
    except OSError as error:
        raise SaveError(f"{path} cannot be written ({error.strerror}). Give another folder") from error
    if importlib.util.find_spec("rerun") is None:
        raise ModuleNotFoundError("--rerun needs the Rerun SDK, which is not installed. Run: pip install 'rt1[viz]'")


def write_rerun(path: Path, title: str, episodes: Iterable[RerunEpisode]) -> Path:
    """Write episodes into a new file and return its path. The errors are those of :func:`check_rerun_target`.

    Each episode has a folder of its own in the viewer. Its steps lie on the timeline ``step``, and on ``time`` in
    seconds where the control rate is known. ``title`` is the recording's id.
    """
    check_rerun_target(path)
    import rerun

    stream = rerun.RecordingStream("rt1", recording_id=title)
    stream.save(path)
    for episode in episodes:
        stream.log(f"{episode.name}/instruction", rerun.TextDocument(episode.instruction), static=True)
        for kind in ("recorded", "predicted"):
            names = rerun.SeriesLines(names=[f"{name}, {kind}" for name in episode.dimension_names])
            stream.log(f"{episode.name}/action/{kind}", names, static=True)
        for number, step in enumerate(episode.steps):
            stream.set_time("step", sequence=number)
            if episode.control_rate:
                stream.set_time("time", duration=number / episode.control_rate)
            for entity, archetype in _entities(rerun, step):
                stream.log(f"{episode.name}/{entity}", archetype)
        stream.reset_time()
    stream.flush()
    stream.disconnect()
    return path


def _entities(rerun: Any, step: RerunStep) -> Iterator[tuple[str, Any]]:  # noqa: ANN401 (a module)
    for name, image in (("image", step.image), ("picture", step.picture)):
        if image is not None:
            jpeg = encode_jpeg(np.ascontiguousarray(image), quality=90)
            yield name, rerun.EncodedImage(contents=jpeg, media_type="image/jpeg")
    for kind, action in (("recorded", step.recorded), ("predicted", step.predicted)):
        if action is not None:
            yield f"action/{kind}", rerun.Scalars(action)
    for number, map_RC in enumerate(() if step.attention is None else step.attention, start=1):
        shares = map_RC / max(float(map_RC.max()), 1e-9)
        yield f"attention/{number}", rerun.Image(np.round(255 * shares).astype(np.uint8), color_model="L")


def recorded_episode(source: EpisodeSource, episode: int) -> RerunEpisode:
    """Return a recorded episode: its images and actions."""
    steps = int(source.lengths[episode])
    images = (image for step in range(steps) for image in each_image(source, episode, step, step + 1))
    actions = source.actions(episode, 0, steps)
    return _of_source(
        source,
        episode,
        (RerunStep(image=image, recorded=action) for image, action in zip(images, actions, strict=True)),
    )


def predicted_episode(policy: Policy, source: EpisodeSource, episode: int, instruction: Any) -> RerunEpisode:  # noqa: ANN401
    """Return a recorded episode with the policy's actions and attention at the same images.

    ``instruction`` is a sentence or its text embedding. The policy's current episode is replaced.
    """
    actions = source.actions(episode, 0, int(source.lengths[episode]))

    def steps() -> Iterator[RerunStep]:
        policy.reset(instruction)
        for (image, logits_AV), recorded in zip(stream_episode(policy, source, episode), actions, strict=True):
            predicted = policy.action_spec.decode_logits(logits_AV)[1]
            yield RerunStep(image=image, recorded=recorded, predicted=predicted, attention=policy.attention_maps())

    return _of_source(source, episode, steps())


def _of_source(source: EpisodeSource, episode: int, steps: Iterable[RerunStep]) -> RerunEpisode:
    return RerunEpisode(
        name=f"episode_{episode}",
        instruction=source.instruction(episode),
        dimension_names=source.action_spec.dimension_names,
        control_rate=optional_members(source).details.get("control_rate"),
        steps=steps,
    )


def trial_episode(policy: BasePolicy, suite: TaskSuite, result: TrialResult) -> RerunEpisode:
    """Return a trial whose images were kept: what the policy saw, the scene, the executed actions, and the attention.

    The policy gives its attention when it sees the images again.
    """
    plan, rollout = result.plan, result.rollout
    attends = isinstance(policy, Policy) and bool(plan.instruction)

    def steps() -> Iterator[RerunStep]:
        if attends:
            policy.reset(plan.instruction)
        scenes = pictures(suite, result) if rollout.snapshots else [None] * len(rollout.images)
        for image, picture, action in zip(rollout.images, scenes, rollout.actions, strict=False):
            maps = None
            if isinstance(policy, Policy) and attends:
                policy.logits(image)
                maps = policy.attention_maps()
            yield RerunStep(image=image, picture=picture, predicted=action, attention=maps)

    return RerunEpisode(
        name=f"{plan.task}/{'success' if rollout.success else 'failure'}_{result.trial}",
        instruction=plan.instruction,
        dimension_names=policy.action_spec.dimension_names,
        control_rate=suite.control_rate,
        steps=steps(),
    )
