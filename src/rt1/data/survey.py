"""A summary of a data set for terminal and HTML page, from a bounded number of steps and images."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rt1.actions import ActionSpec, FloatArray
from rt1.data.sources.base import EpisodeSource, locate, optional_members
from rt1.data.sources.decoding import decoded_images
from rt1.data.statistics import ActionStatistics, statistics_of
from rt1.envs.base import Image
from rt1.errors import DataError

Place = tuple[int, int]
"""Episode and step."""


@dataclass(frozen=True, kw_only=True)
class SurveyLimits:
    """How much of a large data set is read, evenly spread over it."""

    instructions: int = 200_000
    """Episodes whose instruction is counted."""
    steps: int = 1_000_000
    """Approximate number of steps whose actions are read, in whole episodes."""
    embeddings: int = 20_000
    """Episodes whose text embedding is compared with others of the same instruction."""
    images: int = 64
    """Images that are decoded."""


@dataclass(frozen=True, kw_only=True)
class ActionSurvey:
    """The recorded actions against the bounds of the action spec."""

    spec: ActionSpec
    episodes: int
    """Number of episodes that were read."""
    steps: int
    """Number of steps that were read."""
    values: FloatArray
    """(S, A) finite actions, physical units."""
    statistics: ActionStatistics
    """Of ``values``."""
    outside: NDArray[np.float64]
    """(A,) share of the values outside the bounds, 0..1: clipped when encoded, or no choice of a discrete dimension."""
    bins_used: NDArray[np.int64]
    """(A,) number of bins between the 1 % and the 99 % value."""
    outliers: NDArray[np.int64]
    """(A,) number of values farther from the 1 %..99 % range than that range is wide. 0 for discrete dimensions."""
    farthest: tuple[Place | None, ...]
    """The farthest outlier of each dimension, or None."""
    not_finite: int
    """Number of steps whose action has a NaN or an infinity."""
    first_not_finite: Place | None
    """The first of these steps, or None."""

    @property
    def constant(self) -> tuple[str, ...]:
        """Names of the dimensions that never change."""
        return self.statistics.constant_dimensions(self.spec.dimension_names)


@dataclass(frozen=True, kw_only=True)
class ImageSurvey:
    """The sampled images."""

    sizes: Mapping[tuple[int, int], int]
    """Number of images by (height, width), most frequent first."""
    blue_minus_red: NDArray[np.float64]
    """(images,) mean of blue minus mean of red, -255..255, channels as the source declares them."""
    declared_bgr: bool
    """Whether the source declares its images as BGR."""


@dataclass(frozen=True, kw_only=True)
class DataSurvey:
    """The summary of a data set."""

    name: str
    lengths: NDArray[np.int64]
    """(E,) number of steps of each episode."""
    instructions: tuple[tuple[str, int], ...]
    """Each instruction and the number of its episodes, most frequent first."""
    instruction_episodes: int
    """Number of episodes whose instruction was read."""
    empty_instructions: tuple[int, ...]
    """Episodes with an empty instruction."""
    embedding_width: int | None
    """Entries of the text embedding stored with the first episode, or None."""
    conflicting_texts: tuple[str, ...]
    """Instructions stored with more than one text embedding."""
    actions: ActionSurvey
    images: ImageSurvey
    skipped: tuple[str, ...]
    """One message for each record the source left out."""

    @property
    def steps(self) -> int:
        return int(self.lengths.sum())


@dataclass(frozen=True, kw_only=True)
class ShownEpisode:
    """One episode to display."""

    episode: int
    instruction: str
    steps: tuple[int, ...]
    """The steps of ``images``."""
    images: tuple[Image, ...]
    """Images spread over the episode, first and last included."""
    actions: FloatArray
    """(S, A) all actions, physical units."""


def survey_data(source: EpisodeSource, limits: SurveyLimits | None = None) -> DataSurvey:
    """Return the summary of a data set.

    No episode, no finite action, or an image that does not decode raises :class:`DataError`.
    """
    limits = limits or SurveyLimits()
    if not len(source.lengths):
        raise DataError(f"{source.name} has no episodes; point to a data set that has some")
    sentences = {int(e): source.instruction(int(e)) for e in _spread(len(source.lengths), limits.instructions)}
    embedding = source.text_embedding(0)
    return DataSurvey(
        name=source.name,
        lengths=source.lengths,
        instructions=tuple(Counter(sentences.values()).most_common()),
        instruction_episodes=len(sentences),
        empty_instructions=tuple(episode for episode, sentence in sentences.items() if not sentence.strip()),
        embedding_width=None if embedding is None else len(embedding),
        conflicting_texts=() if embedding is None else _conflicting_texts(source, limits.embeddings),
        actions=_survey_actions(source, limits.steps),
        images=_survey_images(source, limits.images),
        skipped=tuple(optional_members(source).skipped),
    )


def show_episode(source: EpisodeSource, episode: int | None = None, *, images: int = 12) -> ShownEpisode:
    """Return one episode to display, by default one of median length. An unknown one raises :class:`DataError`."""
    count = len(source.lengths)
    if episode is None:
        episode = int(np.argsort(source.lengths, kind="stable")[count // 2])
    if not 0 <= episode < count:
        raise DataError(f"there is no episode {episode}; {source.name} has the episodes 0..{count - 1}")
    length = int(source.lengths[episode])
    steps = tuple(_spread(length, images).tolist())
    return ShownEpisode(
        episode=episode,
        instruction=source.instruction(episode),
        steps=steps,
        images=tuple(decoded_images(source, episode, step, step + 1)[0] for step in steps),
        actions=source.actions(episode, 0, length),
    )


def _conflicting_texts(source: EpisodeSource, limit: int) -> tuple[str, ...]:
    """Return the instructions for which two episodes carry different text embeddings."""
    embeddings: dict[str, set[bytes]] = {}
    for episode in _spread(len(source.lengths), limit).tolist():
        vector = source.text_embedding(episode)
        embeddings.setdefault(source.instruction(episode), set()).add(b"" if vector is None else vector.tobytes())
    return tuple(sentence for sentence, vectors in embeddings.items() if len(vectors) > 1)


def _survey_actions(source: EpisodeSource, limit: int) -> ActionSurvey:
    spec, total = source.action_spec, int(source.lengths.sum())
    count = len(source.lengths)
    episodes = _spread(count, count if total <= limit else max(1, count * limit // total))
    lengths = source.lengths[episodes]
    read = np.concatenate([source.actions(int(e), 0, int(n)) for e, n in zip(episodes, lengths, strict=True)])
    finite = np.isfinite(read).all(axis=1)
    if not finite.any():
        raise DataError(f"{source.name}: no step of {len(read)} has a finite action; record the data set again")
    rows, ends = np.flatnonzero(finite), np.cumsum(lengths)

    def place(row: int) -> Place:
        number, step = locate(ends, row)
        return int(episodes[number]), int(step)

    values = read[finite]
    statistics = statistics_of(values)
    fraction = (spec.discrete_choices > 0) & (values != np.floor(values))
    beyond = np.maximum(values - statistics.q99, statistics.q01 - values) - (statistics.q99 - statistics.q01)
    beyond[:, spec.discrete_choices > 0] = -1.0
    outliers = (beyond > 0).sum(axis=0)
    return ActionSurvey(
        spec=spec,
        episodes=len(episodes),
        steps=len(read),
        values=values,
        statistics=statistics,
        outside=(spec.out_of_bounds(values) | fraction).mean(axis=0),
        bins_used=_bins_used(statistics, spec),
        outliers=outliers,
        farthest=tuple(
            place(int(rows[row])) if count else None for row, count in zip(beyond.argmax(axis=0), outliers, strict=True)
        ),
        not_finite=int((~finite).sum()),
        first_not_finite=None if finite.all() else place(int(np.argmin(finite))),
    )


def _bins_used(statistics: ActionStatistics, spec: ActionSpec) -> NDArray[np.int64]:
    low, high = (np.clip(quantile, spec.low, spec.high) for quantile in (statistics.q01, statistics.q99))
    bins = np.where(spec.discrete_choices > 0, spec.discrete_choices, spec.bins) - 1
    first, last = (np.floor((edge - spec.low) / (spec.high - spec.low) * bins) for edge in (low, high))
    return (last - first + 1).astype(np.int64)


def _survey_images(source: EpisodeSource, limit: int) -> ImageSurvey:
    ends = np.cumsum(source.lengths)
    sizes: Counter[tuple[int, int]] = Counter()
    differences = []
    for step in _spread(int(ends[-1]), limit):
        episode, number = map(int, locate(ends, step))
        (image,) = decoded_images(source, episode, number, number + 1)
        sizes[image.shape[0], image.shape[1]] += 1
        red, _, blue = image.mean(axis=(0, 1))
        differences.append(blue - red)
    return ImageSurvey(
        sizes=dict(sizes.most_common()), blue_minus_red=np.array(differences), declared_bgr=optional_members(source).bgr
    )


def _spread(total: int, limit: int) -> NDArray[np.int64]:
    """Return at most ``limit`` numbers of 0..total-1, evenly spread, first and last included."""
    return np.unique(np.linspace(0, total - 1, min(total, limit)).round().astype(np.int64))
