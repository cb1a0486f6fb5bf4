"""What the data room hands out: episodes by index, whatever file they lie in."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from rt1.actions import ActionSpec, FloatArray


def check_steps(source: EpisodeSource, episode: int, start: int = 0, stop: int = 0) -> None:
    """Raise ``IndexError`` where a source does not have this episode, or not its steps ``start..stop-1``."""
    if not 0 <= episode < len(source.lengths):
        raise IndexError(f"{source.name}: episode {episode}; it has the episodes 0..{len(source.lengths) - 1}")
    length = source.lengths[episode]
    if not 0 <= start <= stop <= length:
        raise IndexError(f"{source.name}: steps {start}..{stop} of episode {episode}, which has {length} steps")


@runtime_checkable
class EpisodeSource(Protocol):
    """Recorded episodes by index. ``rt1.testing.check_source`` checks an implementation.

    Reading is random access and thread-safe; nothing but an index is held in memory. An own data set is an object
    with these members, handed to ``rt1.train.loop.train``.
    """

    name: str
    """Short name for tables and errors."""
    lengths: NDArray[np.int64]
    """(E,) number of steps of each episode, at least 1."""

    @property
    def action_spec(self) -> ActionSpec:
        """Dimensions and bounds of the actions; an attribute will do."""
        ...

    def instruction(self, episode: int) -> str:
        """Return the sentence of an episode."""
        ...

    def text_embedding(self, episode: int) -> FloatArray | None:
        """Return the text embedding stored with an episode, float32 (E,), or None where there is none."""
        ...

    def task(self, episode: int) -> str:
        """Return the name of the episode's task, or an empty string."""
        ...

    def encoded_images(self, episode: int, start: int, stop: int) -> list[bytes]:
        """Return the JPEG or PNG bytes of steps ``start..stop-1``; see :func:`rt1.data.sources.images.decode_image`."""
        ...

    def actions(self, episode: int, start: int, stop: int) -> FloatArray:
        """Return float32 (stop - start, A), physical units as stored (not clipped)."""
        ...
