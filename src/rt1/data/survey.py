"""A summary of a data set for terminal and HTML page, from a bounded number of steps and images."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from rt1.actions import ActionSpec, FloatArray
from rt1.data.sources.base import EpisodeSource, locate, optional_members
from rt1.data.sources.decoding import decoded_images
from rt1.data.statistics import ActionStatistics, statistics_of
from rt1.envs.base import Image
from rt1.errors import DataError
from rt1.text.encoder import TextEncoder
from rt1.text.pieces import Tokenizing, same_instructions, shared_vectors

FROZEN = 2
"""Two images are the same where no value differs by more than this, of 255."""

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
    moving: int = 24
    """Episodes of which 8 images are compared with each other."""


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
    most_common: FloatArray
    """(A,) the median, which is the value of most steps where one value is that of more than half."""
    most_common_share: NDArray[np.float64]
    """(A,) share of the steps with exactly this value, 0..1."""
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
    brightness: NDArray[np.float64]
    """(images,) mean of all channels, 0..255."""
    moving_episodes: int
    """Number of episodes whose images were compared with each other."""
    frozen: tuple[int, ...]
    """Those of them in which at least half of the images equal the one before."""


@dataclass(frozen=True, kw_only=True)
class TextSurvey:
    """Instructions as a text encoder sees them."""

    maker: str
    """Name of the encoder, or ``stored`` for the text embeddings of the data set."""
    shared: tuple[tuple[str, ...], ...]
    """Different instructions with the same text embedding, in groups."""
    unknown: Mapping[str, tuple[str, ...]]
    """Instruction to its pieces that the encoder does not know."""


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
    texts: tuple[TextSurvey, ...]
    """The instructions by the stored text embeddings and by the encoder that was named."""
    duplicates: tuple[tuple[int, int], ...]
    """Pairs of episodes with the same actions and the same first image."""
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


def survey_data(
    source: EpisodeSource, limits: SurveyLimits | None = None, *, encoder: TextEncoder | None = None
) -> DataSurvey:
    """Return the summary of a data set. ``encoder`` is the text encoder that is to be used with it.

    No episode, no finite action, or an image that does not decode raises :class:`DataError`.
    """
    limits = limits or SurveyLimits()
    if not len(source.lengths):
        raise DataError(f"{source.name} has no episodes. Point to a data set that has some")
    sentences = {int(e): source.instruction(int(e)) for e in spread(len(source.lengths), limits.instructions)}
    episodes = _episodes_of(source, limits.steps)
    actions = [source.actions(episode, 0, int(source.lengths[episode])) for episode in episodes.tolist()]
    embedding = source.text_embedding(0)
    vectors = {} if embedding is None else _stored_texts(source, limits.embeddings)
    texts = [_stored_survey(vectors)] if vectors else []
    if encoder is not None:
        texts.append(_text_survey(sorted({*sentences.values()}), encoder))
    return DataSurvey(
        name=source.name,
        lengths=source.lengths,
        instructions=tuple(Counter(sentences.values()).most_common()),
        instruction_episodes=len(sentences),
        empty_instructions=tuple(episode for episode, sentence in sentences.items() if not sentence.strip()),
        embedding_width=None if embedding is None else len(embedding),
        conflicting_texts=tuple(sentence for sentence, stored in vectors.items() if len(stored) > 1),
        texts=tuple(texts),
        duplicates=_duplicates(source, episodes, actions),
        actions=_survey_actions(source, episodes, actions),
        images=_survey_images(source, limits),
        skipped=tuple(optional_members(source).skipped),
    )


def show_episode(source: EpisodeSource, episode: int | None = None, *, images: int = 12) -> ShownEpisode:
    """Return one episode to display, by default one of median length. An unknown one raises :class:`DataError`."""
    count = len(source.lengths)
    if episode is None:
        episode = int(np.argsort(source.lengths, kind="stable")[count // 2])
    if not 0 <= episode < count:
        raise DataError(f"there is no episode {episode}. The episodes of {source.name} are 0..{count - 1}")
    length = int(source.lengths[episode])
    steps = tuple(spread(length, images).tolist())
    return ShownEpisode(
        episode=episode,
        instruction=source.instruction(episode),
        steps=steps,
        images=tuple(decoded_images(source, episode, step, step + 1)[0] for step in steps),
        actions=source.actions(episode, 0, length),
    )


def _stored_texts(source: EpisodeSource, limit: int) -> dict[str, set[bytes]]:
    """Return each instruction and the different text embeddings that episodes carry for it."""
    embeddings: dict[str, set[bytes]] = {}
    for episode in spread(len(source.lengths), limit).tolist():
        vector = source.text_embedding(episode)
        embeddings.setdefault(source.instruction(episode), set()).add(b"" if vector is None else vector.tobytes())
    return embeddings


def _stored_survey(vectors: Mapping[str, set[bytes]]) -> TextSurvey:
    single = {sentence: next(iter(stored)) for sentence, stored in vectors.items() if len(stored) == 1}
    return TextSurvey(maker="stored", shared=tuple(same_instructions(single.items())), unknown={})


def _text_survey(sentences: Sequence[str], encoder: TextEncoder) -> TextSurvey:
    sentences = [sentence for sentence in sentences if sentence.strip()]
    unknown: dict[str, tuple[str, ...]] = {}
    vectors = None
    if isinstance(encoder, Tokenizing):
        pieces = {sentence: encoder.pieces(sentence).unknown for sentence in sentences}
        unknown = {sentence: parts for sentence, parts in pieces.items() if parts}
    else:
        vectors = encoder.encode(sentences)
    return TextSurvey(
        maker=encoder.identity.name,
        shared=tuple(shared_vectors(sentences, vectors, encoder)),
        unknown=unknown,
    )


def _duplicates(
    source: EpisodeSource, episodes: NDArray[np.int64], actions: Sequence[FloatArray]
) -> tuple[tuple[int, int], ...]:
    """Return each episode that repeats an earlier one, after that one."""
    firsts: dict[bytes, int] = {}
    pairs = []
    for episode, values in zip(episodes.tolist(), actions, strict=True):
        first = firsts.setdefault(hashlib.sha256(values.tobytes()).digest(), episode)
        if first != episode:
            one, other = (decoded_images(source, number, 0, 1)[0] for number in (first, episode))
            if np.array_equal(one, other):
                pairs.append((first, episode))
    return tuple(pairs)


def _episodes_of(source: EpisodeSource, limit: int) -> NDArray[np.int64]:
    """Return numbers of evenly spread episodes that have about ``limit`` steps together."""
    total, count = int(source.lengths.sum()), len(source.lengths)
    return spread(count, count if total <= limit else max(1, count * limit // total))


def _survey_actions(source: EpisodeSource, episodes: NDArray[np.int64], actions: Sequence[FloatArray]) -> ActionSurvey:
    spec, lengths, read = source.action_spec, source.lengths[episodes], np.concatenate(actions)
    finite = np.isfinite(read).all(axis=1)
    if not finite.any():
        raise DataError(f"{source.name}: no step of {len(read)} has a finite action. Record the data set again")
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
    median = np.quantile(values, 0.5, axis=0, method="lower").astype(np.float32)
    return ActionSurvey(
        spec=spec,
        episodes=len(episodes),
        steps=len(read),
        values=values,
        statistics=statistics,
        outside=(spec.out_of_bounds(values) | fraction).mean(axis=0),
        most_common=median,
        most_common_share=(values == median).mean(axis=0),
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


def _survey_images(source: EpisodeSource, limits: SurveyLimits) -> ImageSurvey:
    ends = np.cumsum(source.lengths)
    sizes: Counter[tuple[int, int]] = Counter()
    differences, brightness = [], []
    for step in spread(int(ends[-1]), limits.images):
        episode, number = map(int, locate(ends, step))
        (image,) = decoded_images(source, episode, number, number + 1)
        sizes[image.shape[0], image.shape[1]] += 1
        red, green, blue = image.mean(axis=(0, 1))
        differences.append(blue - red)
        brightness.append((red + green + blue) / 3)
    episodes = np.flatnonzero(source.lengths > 2)
    episodes = episodes[spread(len(episodes), limits.moving)] if len(episodes) else episodes
    return ImageSurvey(
        sizes=dict(sizes.most_common()),
        blue_minus_red=np.array(differences),
        declared_bgr=optional_members(source).bgr,
        brightness=np.array(brightness),
        moving_episodes=len(episodes),
        frozen=tuple(episode for episode in episodes.tolist() if _is_frozen(source, episode)),
    )


def _is_frozen(source: EpisodeSource, episode: int) -> bool:
    """Return whether at least half of 8 images equal the one before, but for the noise of a video."""
    steps = spread(int(source.lengths[episode]), 8).tolist()
    images = [decoded_images(source, episode, step, step + 1)[0].astype(np.int16) for step in steps]
    pairs = [one.shape == other.shape and np.abs(one - other).max() <= FROZEN for one, other in pairwise(images)]
    return sum(pairs) >= len(pairs) / 2


def spread(total: int, limit: int) -> NDArray[np.int64]:
    """Return at most ``limit`` numbers of 0..total-1, evenly spread, first and last included."""
    return np.unique(np.linspace(0, total - 1, min(total, limit)).round().astype(np.int64))
