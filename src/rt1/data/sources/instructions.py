"""Sources with several instructions per episode, and without the episodes that have none."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rt1.data.sources.base import EpisodeSource
from rt1.data.sources.concat import WrappedSource
from rt1.errors import DataError


class SeveralInstructions(WrappedSource):
    """One data set opened once for each key that holds an instruction. All but the instructions is the first one's."""

    def __init__(self, sources: Sequence[EpisodeSource]) -> None:
        """Join the views. They must have the same episodes."""
        first, *others = sources
        for source in others:
            if not np.array_equal(source.lengths, first.lengths):
                raise DataError(
                    f"{first.name} has {len(first.lengths)} episodes under one instruction key and "
                    f"{len(source.lengths)} under another. Name keys that all episodes have"
                )
        super().__init__(first)
        self._sources = tuple(sources)

    def instruction(self, episode: int) -> str:
        """Return the first sentence that is not empty."""
        return self.instructions(episode)[0]

    def instructions(self, episode: int) -> tuple[str, ...]:
        """Return the different sentences of an episode, in the order of the keys."""
        sentences = dict.fromkeys(source.instruction(episode) for source in self._sources)
        return tuple(sentence for sentence in sentences if sentence.strip()) or ("",)


class EpisodesWithInstruction(WrappedSource):
    """The episodes of a source whose instruction is not empty, numbered through."""

    def __init__(self, source: EpisodeSource) -> None:
        """Read all instructions. A source without any raises :class:`DataError`."""
        episodes = [number for number in range(len(source.lengths)) if source.instruction(number).strip()]
        if not episodes:
            raise DataError(f"{source.name}: none of its {len(source.lengths)} episodes has an instruction. Give one")
        super().__init__(source)
        self._episodes = episodes
        self.lengths = source.lengths[episodes]
        self.left_out = len(source.lengths) - len(episodes)
        """Number of episodes with an empty instruction."""

    def part(self, episode: int) -> tuple[EpisodeSource, int]:
        return self.source, self._episodes[episode]
