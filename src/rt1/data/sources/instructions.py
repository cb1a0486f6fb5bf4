"""Sources with several instructions per episode, and without the episodes that have none."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rt1.actions import ActionSpec
from rt1.data.sources.base import EpisodeSource
from rt1.data.sources.concat import DerivedSource
from rt1.errors import DataError


class SeveralInstructions(DerivedSource):
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
        self._sources = tuple(sources)
        self._copy_members(first, same_actions=True)

    @property
    def action_spec(self) -> ActionSpec:
        return self._sources[0].action_spec

    def part(self, episode: int) -> tuple[EpisodeSource, int]:
        return self._sources[0], episode

    def instruction(self, episode: int) -> str:
        """Return the first sentence that is not empty."""
        return self.instructions(episode)[0]

    def instructions(self, episode: int) -> tuple[str, ...]:
        """Return the different sentences of an episode, in the order of the keys."""
        sentences = dict.fromkeys(source.instruction(episode) for source in self._sources)
        return tuple(sentence for sentence in sentences if sentence.strip()) or ("",)


class EpisodesWithInstruction(DerivedSource):
    """The episodes of a source whose instruction is not empty, numbered through."""

    def __init__(self, source: EpisodeSource) -> None:
        """Read all instructions. A source without any raises :class:`DataError`."""
        episodes = [number for number in range(len(source.lengths)) if source.instruction(number).strip()]
        if not episodes:
            raise DataError(f"{source.name}: none of its {len(source.lengths)} episodes has an instruction; give one")
        self._source, self._episodes = source, episodes
        self._copy_members(source, same_actions=True)
        self.lengths = source.lengths[episodes]
        self.left_out = len(source.lengths) - len(episodes)
        """Number of episodes with an empty instruction."""

    @property
    def action_spec(self) -> ActionSpec:
        return self._source.action_spec

    def part(self, episode: int) -> tuple[EpisodeSource, int]:
        return self._source, self._episodes[episode]
