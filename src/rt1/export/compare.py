"""An exported policy against the network it was made from: the same images, the same instructions, step by step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from rt1.actions import FloatArray, choose_tokens
from rt1.data.sources.base import EpisodeSource
from rt1.data.sources.images import decode_image
from rt1.errors import DataError
from rt1.policy.base import Acting
from rt1.policy.exported_manifest import Comparison
from rt1.policy.exported_reference import clear_tokens

PATCH = 32
"""Pixels of a patch of a generated image; in noise all pixels average out, and all images look alike."""
PATCHES = (8, 10)
"""Rows and columns of patches of a generated image."""


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One episode that both are led through."""

    embedding: FloatArray
    """Text embedding, float32 (E,)."""
    images: Sequence[NDArray[np.uint8]]
    """RGB images (H, W, 3)."""


@dataclass(frozen=True, kw_only=True)
class TrialSize:
    """How much is compared."""

    episodes: int
    """Number of episodes."""
    steps: int
    """Steps of each."""
    text_width: int
    """E: entries of a text embedding."""
    vocabulary: int = 0
    """Word pieces whose ids a text embedding holds; 0 where it holds vectors."""


def generated_trials(size: TrialSize, seed: int) -> list[Trial]:
    """Make episodes of coloured patches with random text embeddings: unit vectors, or ids of word pieces."""
    random = np.random.default_rng(seed)
    trials = []
    for embedding in _embeddings(size, seed):
        coarse = random.integers(0, 256, (size.steps, *PATCHES, 3), dtype=np.uint8)
        trials.append(Trial(embedding=embedding, images=list(coarse.repeat(PATCH, axis=1).repeat(PATCH, axis=2))))
    return trials


def recorded_trials(source: EpisodeSource, size: TrialSize, seed: int) -> list[Trial]:
    """Cut a data set's first images into episodes of equal length.

    Where an episode of the data set is shorter its successor's images follow, and after the last one the first's:
    for a comparison any images do that look like those of the robot. Text embeddings are those stored with the first
    episodes; random ones where none is stored, or another kind than the network takes.

    Raises:
        DataError: the data set is empty or damaged.
    """
    if not len(source.lengths):
        raise DataError(f"{source.name} has no episode to compare on; give another data set")
    images = _images(source)
    trials = []
    for episode, random in enumerate(_embeddings(size, seed)):
        stored = source.text_embedding(episode % len(source.lengths))
        fits = stored is not None and stored.shape == random.shape and not size.vocabulary
        embedding = stored if stored is not None and fits else random
        trials.append(Trial(embedding=embedding, images=[next(images) for _ in range(size.steps)]))
    return trials


def compare(
    policy: Acting,
    exported: Acting,
    trials: Sequence[Trial],
    *,
    images: Literal["recorded", "generated"],
    tolerance: float,
) -> Comparison:
    """Lead two policies through the same episodes and count how they differ.

    Args:
        policy: the network itself.
        exported: what was made from it.
        trials: episodes, longer than the window so that both have to forget images.
        images: what to call the images.
        tolerance: largest logit difference that is to pass, as a share of the largest logit; only noted here.
    """
    total = Comparison(
        images=images,
        steps=0,
        logit_difference=0.0,
        largest_logit=0.0,
        tokens=0,
        tokens_agreeing=0,
        clear_tokens=0,
        clear_tokens_agreeing=0,
        tolerance=tolerance,
    )
    for trial in trials:
        policy.reset(trial.embedding)
        exported.reset(trial.embedding)
        for image in trial.images:
            total = _with_step(total, policy.logits(image), exported.logits(image))
    return total


def _with_step(total: Comparison, wanted_AV: FloatArray, given_AV: FloatArray) -> Comparison:
    clear, agreeing = clear_tokens(wanted_AV, given_AV)
    agrees_A = choose_tokens(wanted_AV) == given_AV.argmax(-1)
    difference = float(np.abs(wanted_AV - given_AV).max())
    return replace(
        total,
        steps=total.steps + 1,
        # A NaN is larger than anything, which max() would not say.
        logit_difference=float(np.maximum(total.logit_difference, difference)),
        largest_logit=max(total.largest_logit, float(np.abs(wanted_AV).max())),
        tokens=total.tokens + agrees_A.size,
        tokens_agreeing=total.tokens_agreeing + int(agrees_A.sum()),
        clear_tokens=total.clear_tokens + clear,
        clear_tokens_agreeing=total.clear_tokens_agreeing + agreeing,
    )


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
                (encoded,) = source.encoded_images(episode, start, start + 1)
                yield decode_image(encoded)
