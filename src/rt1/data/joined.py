"""Sources made of other sources: several as one, and one with another action."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from rt1.actions import ActionSpec, FloatArray, spec_difference
from rt1.data.decoding import decoded_images
from rt1.data.episode import DataError, EpisodeSource

MapActions = Callable[[FloatArray], FloatArray]
"""Pure function of consecutive actions, float32 (S, A), to those of another spec, float32 (S, A'), step by step."""


class JoinedSource:
    """The episodes of several sources counted through; an :class:`~rt1.data.episode.EpisodeSource`."""

    def __init__(self, sources: Sequence[EpisodeSource]) -> None:
        """Join sources.

        Raises:
            DataError: no source, or sources with different action specs.
        """
        if not sources:
            raise DataError("there are no sources to join; give at least one")
        self.sources = tuple(sources)
        self.name = "+".join(source.name for source in sources)
        self.action_spec = _common_spec(self.sources)
        self.lengths: NDArray[np.int64] = np.concatenate([source.lengths for source in sources])
        self.firsts: NDArray[np.int64] = np.cumsum([0, *(len(source.lengths) for source in sources[:-1])])
        """(sources,) number of each source's first episode."""
        encoders = [getattr(source, "text_encoder", None) for source in sources]
        self.text_encoder = encoders[0] if all(encoder == encoders[0] for encoder in encoders) else None
        """Identity of the encoder of the stored text embeddings; None where not known, or not the same for all."""
        self._one_encoder = all(encoder == encoders[0] for encoder in encoders)

    def part(self, episode: int) -> tuple[EpisodeSource, int]:
        """Return the source of an episode and the episode's number there."""
        if not 0 <= episode < len(self.lengths):
            raise IndexError(f"{self.name}: episode {episode}; it has the episodes 0..{len(self.lengths) - 1}")
        number = int(np.searchsorted(self.firsts, episode, side="right")) - 1
        return self.sources[number], episode - int(self.firsts[number])

    def instruction(self, episode: int) -> str:
        """Return the sentence of an episode."""
        source, own = self.part(episode)
        return source.instruction(own)

    def task(self, episode: int) -> str:
        """Return the name of the episode's task, or an empty string."""
        source, own = self.part(episode)
        return source.task(own)

    def text_embedding(self, episode: int) -> FloatArray | None:
        """Return the text embedding stored with an episode; refused where the sources used different encoders."""
        if not self._one_encoder:
            raise DataError(
                f"the text embeddings of {self.name} come from different encoders; name one for all instructions"
            )
        source, own = self.part(episode)
        return source.text_embedding(own)

    def encoded_images(self, episode: int, start: int, stop: int) -> list[bytes]:
        """Return the JPEG or PNG bytes as the episode's source has them; :meth:`images` knows which are BGR."""
        source, own = self.part(episode)
        return source.encoded_images(own, start, stop)

    def images(self, episode: int, start: int, stop: int) -> list[NDArray[np.uint8]]:
        """Return the images of steps ``start..stop-1``, uint8 RGB (H, W, 3)."""
        return decoded_images(*origin(self, episode), start, stop)

    def actions(self, episode: int, start: int, stop: int) -> FloatArray:
        """Return float32 (stop - start, A), physical units as stored (not clipped)."""
        source, own = self.part(episode)
        return source.actions(own, start, stop)


class MappedSource:
    """A source with its actions turned into those of another spec, so that it can be joined with others."""

    def __init__(self, source: EpisodeSource, action_spec: ActionSpec, map_actions: MapActions) -> None:
        """Put a mapping on top of a source; it is tried on the first step."""
        self.source, self.action_spec, self._map = source, action_spec, map_actions
        self.name = source.name
        self.lengths = source.lengths
        self.text_encoder = getattr(source, "text_encoder", None)
        self.actions(0, 0, 1)

    def instruction(self, episode: int) -> str:
        """Return the sentence of an episode."""
        return self.source.instruction(episode)

    def task(self, episode: int) -> str:
        """Return the name of the episode's task, or an empty string."""
        return self.source.task(episode)

    def text_embedding(self, episode: int) -> FloatArray | None:
        """Return the text embedding stored with an episode."""
        return self.source.text_embedding(episode)

    def encoded_images(self, episode: int, start: int, stop: int) -> list[bytes]:
        """Return the JPEG or PNG bytes as the source has them; :meth:`images` knows which are BGR."""
        return self.source.encoded_images(episode, start, stop)

    def images(self, episode: int, start: int, stop: int) -> list[NDArray[np.uint8]]:
        """Return the images of steps ``start..stop-1``, uint8 RGB (H, W, 3)."""
        return decoded_images(*origin(self, episode), start, stop)

    def actions(self, episode: int, start: int, stop: int) -> FloatArray:
        """Return the mapped actions, float32 (stop - start, A)."""
        mapped = self._map(self.source.actions(episode, start, stop))
        if mapped.dtype != np.float32 or mapped.shape != (stop - start, self.action_spec.size):
            raise DataError(
                f"{self.name}, episode {episode}: the mapping returned {mapped.dtype} {mapped.shape}; "
                f"it must return float32 ({stop - start}, {self.action_spec.size})"
            )
        return mapped


def origin(source: EpisodeSource, episode: int) -> tuple[EpisodeSource, int]:
    """Return the source that holds an episode's images, below joining and mapping, and its number there."""
    while isinstance(source, JoinedSource | MappedSource):
        source, episode = source.part(episode) if isinstance(source, JoinedSource) else (source.source, episode)
    return source, episode


def _common_spec(sources: Sequence[EpisodeSource]) -> ActionSpec:
    first = sources[0]
    for other in sources[1:]:
        if first.action_spec != other.action_spec:
            difference = spec_difference(first.action_spec, other.action_spec)
            raise DataError(
                f"{first.name} and {other.name} have different action specs ({difference}); map one to the other's: "
                "MappedSource(source, action_spec, function)"
            )
    return first.action_spec
