"""Recorded episodes run through a policy: what it would have done at each image, beside what was done."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rt1.actions import FloatArray
from rt1.data.decoding import decoded_images
from rt1.data.episode import EpisodeSource
from rt1.evaluate.results import EpisodePlot
from rt1.evaluate.rollout import Image
from rt1.policy import Policy


@dataclass(frozen=True, kw_only=True)
class PredictedEpisode:
    """One recorded episode and a policy's actions at its images."""

    episode: int
    """Its number in the source."""
    recorded: FloatArray
    """(S, A) actions as recorded, physical units."""
    predicted: FloatArray
    """(S, A) actions as the policy, run as on the robot, would have chosen."""
    images: tuple[Image, ...]
    """The S images."""


def predict_episode(policy: Policy, source: EpisodeSource, episode: int) -> PredictedEpisode:
    """Run a policy over a recorded episode as on the robot: one image after another, from an empty memory."""
    steps = int(source.lengths[episode])
    images = tuple(decoded_images(source, episode, 0, steps))
    stored = source.text_embedding(episode)
    policy.reset(source.instruction(episode) if stored is None else stored)
    return PredictedEpisode(
        episode=episode,
        recorded=source.actions(episode, 0, steps),
        predicted=np.stack([policy.act_vector(image) for image in images]),
        images=images,
    )


def episode_plots(
    policy: Policy, source: EpisodeSource, episodes: Sequence[int], *, per_task: int = 1
) -> list[EpisodePlot]:
    """Return plots of the first ``per_task`` of these episodes of each task."""
    shown: dict[str, int] = {}
    plots = []
    for episode in episodes:
        task = source.task(episode) or source.instruction(episode)
        if shown.get(task, 0) >= per_task:
            continue
        shown[task] = shown.get(task, 0) + 1
        result = predict_episode(policy, source, int(episode))
        plots.append(
            EpisodePlot(
                title=f"{task}, held-out episode {episode}: {source.instruction(episode)!r}",
                dimension_names=source.action_spec.dimension_names,
                recorded=result.recorded,
                predicted=result.predicted,
                images=result.images,
            )
        )
    return plots
