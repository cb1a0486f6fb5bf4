"""Compare an export with its network: the same images and instructions, step by step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add

import cv2
import numpy as np
from numpy.typing import NDArray

from rt1.actions import ActionSpec, FloatArray
from rt1.data.sources.base import EpisodeSource
from rt1.data.sources.decoding import each_image
from rt1.errors import DataError
from rt1.policy.agreement import NOTHING_COMPARED, Agreement, compare_logits
from rt1.policy.stepper import Stepper


@dataclass(frozen=True, kw_only=True)
class Trial:
    """A text embedding, float32 (E,), and RGB images (H, W, 3) that both get."""

    embedding: FloatArray
    images: Sequence[NDArray[np.uint8]]


@dataclass(frozen=True, kw_only=True)
class TrialSize:
    """The number and the size of the episodes."""

    episodes: int
    """Number of episodes."""
    steps: int
    """Steps of each."""
    text_width: int
    """E: entries of a text embedding."""
    vocabulary: int = 0
    """Word pieces whose ids a text embedding holds. 0 where it holds vectors."""


def generated_trials(size: TrialSize, seed: int) -> list[Trial]:
    """Return episodes of drifting soft-edged blobs of color, with random text embeddings: unit vectors, or word ids."""
    random = np.random.default_rng(seed)
    trials = []
    for embedding in _embeddings(size, seed):
        scene = random.uniform(0, 255, (6, 8, 3)).astype(np.float32)
        drift = random.normal(0, 12, scene.shape).astype(np.float32)
        images = []
        for step in range(size.steps):
            image = cv2.resize(scene + step * drift, (320, 256), interpolation=cv2.INTER_CUBIC)
            images.append(np.clip(image + random.normal(0, 4, image.shape), 0, 255).astype(np.uint8))
        trials.append(Trial(embedding=embedding, images=images))
    return trials


def recorded_trials(source: EpisodeSource, size: TrialSize, seed: int) -> list[Trial]:
    """Cut a data set's first images into episodes of equal length, across its episodes and again from the start.

    Text embeddings are those stored with the first episodes, or random ones where none is stored that fits the network.

    Raises:
        DataError: the data set is empty or damaged.
    """
    if not len(source.lengths):
        raise DataError(f"{source.name} has no episode to compare on. Give another data set")
    images = _images(source)
    trials = []
    for episode, random in enumerate(_embeddings(size, seed)):
        stored = source.text_embedding(episode % len(source.lengths))
        fits = stored is not None and stored.shape == random.shape and not size.vocabulary
        embedding = stored if stored is not None and fits else random
        trials.append(Trial(embedding=embedding, images=[next(images) for _ in range(size.steps)]))
    return trials


def compare(network: Stepper, exported: Stepper, trials: Sequence[Trial], spec: ActionSpec) -> Agreement:
    """Run a network and its export on the same episodes and return how they differ.

    The episodes should be longer than the window.

    Raises:
        PolicyError: the network's logits are not finite.
    """
    agreements = []
    for trial in trials:
        reference_NAV = network.episode_logits(trial.embedding, trial.images)
        spec.decode_logits(reference_NAV)
        agreements.append(compare_logits(reference_NAV, exported.episode_logits(trial.embedding, trial.images)))
    return reduce(add, agreements, NOTHING_COMPARED)


def _embeddings(size: TrialSize, seed: int) -> FloatArray:
    random = np.random.default_rng([seed, 1])
    if size.vocabulary:
        return random.integers(1, size.vocabulary, (size.episodes, size.text_width)).astype(np.float32)
    vectors = random.normal(size=(size.episodes, size.text_width))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def _images(source: EpisodeSource) -> Iterator[NDArray[np.uint8]]:
    while True:
        for episode, length in enumerate(source.lengths):
            for start in range(int(length)):
                yield from each_image(source, episode, start, start + 1)
