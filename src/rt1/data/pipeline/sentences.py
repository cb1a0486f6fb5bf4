"""Text embeddings of the sentences of every episode, and the draw of one for each sample."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from rt1.actions import FloatArray
from rt1.data.pipeline.mixture import scrambled

_STREAM = np.uint64(0x5E47E9CE5)  # apart from the order of samples, which is drawn from the same seed


@dataclass(frozen=True, kw_only=True, eq=False)
class Sentences:
    """Text embeddings of all sentences, and which of them belong to each episode."""

    vector_RE: NDArray[np.float32]
    """float32 (R, E), a row for each different sentence."""
    rows: NDArray[np.int64]
    """(n,) rows of the episodes' sentences, episode by episode, its instruction first."""
    counts: NDArray[np.int64]
    """(episodes,) number of sentences of each episode, at least 1."""
    in_turn: bool = False
    """Whether the samples of a window get its sentences in turn instead of at random."""

    def __post_init__(self) -> None:
        if self.counts.min(initial=1) < 1 or self.counts.sum() != len(self.rows):
            counts = f"{self.counts.sum()} sentences, the fewest {self.counts.min(initial=1)}"
            rule = "Give one row per sentence, at least one per episode"
            raise ValueError(f"{len(self.rows)} rows for episodes of {counts}. {rule}")

    @staticmethod
    def one_each(text: NDArray[np.float32]) -> Sentences:
        """Return the sentences of episodes that have one each. ``text`` is float32 (episodes, E)."""
        numbers = np.arange(len(text))
        return Sentences(vector_RE=text, rows=numbers, counts=np.ones_like(numbers))

    def instructions(self, episodes: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return (B, E), the text embeddings of the episodes' instructions."""
        return self.vector_RE[self.rows[self._firsts[episodes]]]

    def drawn(self, episodes: NDArray[np.int64], samples: NDArray[np.int64], *, seed: int) -> NDArray[np.float32]:
        """Return (B, E): for each sample the embedding of one of its episode's sentences, all equally likely.

        Only the seed and the global sample numbers, int64 (B,), decide the draw.
        """
        key = scrambled(np.array([seed & 0xFFFFFFFF], dtype=np.uint64) ^ _STREAM)
        return self._at(episodes, scrambled(key + samples.astype(np.uint64)))

    def taken(self, episodes: NDArray[np.int64], items: NDArray[np.int64], passes: NDArray[np.int64]) -> FloatArray:
        """Return (B, E): for each item, int64 (B,), another sentence of its episode in each pass over the data."""
        return self._at(episodes, (scrambled(items.astype(np.uint64)) >> np.uint64(1)) + passes.astype(np.uint64))

    def _at(self, episodes: NDArray[np.int64], numbers: NDArray[np.uint64]) -> FloatArray:
        places = numbers % self.counts[episodes].astype(np.uint64)
        return self.vector_RE[self.rows[self._firsts[episodes] + places.astype(np.int64)]]

    @cached_property
    def _firsts(self) -> NDArray[np.int64]:
        return np.cumsum(self.counts) - self.counts
