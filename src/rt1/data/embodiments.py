"""Which embodiment an episode is of, where sources with different action specs are joined."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from rt1.actions import ActionSpec
from rt1.data.sources.base import EpisodeSource
from rt1.data.sources.concat import JoinedSource


@dataclass(frozen=True, kw_only=True, eq=False)
class Embodiments:
    """The embodiments of a source; an embodiment's number is its place, and that of the network's head."""

    sources: Mapping[str, EpisodeSource]
    """The episodes of each, by name."""
    heads: NDArray[np.int64]
    """(E,) number of each episode's embodiment."""

    @property
    def several(self) -> bool:
        """Whether there is more than one."""
        return len(self.sources) > 1

    @cached_property
    def specs(self) -> dict[str, ActionSpec]:
        """Action spec of each, by name."""
        return {name: source.action_spec for name, source in self.sources.items()}

    @property
    def size(self) -> int:
        """A: dimensions of the longest action."""
        return max(spec.size for spec in self.specs.values())

    def own_numbers(self, head: int, episodes: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return those of the episodes that are of an embodiment, by their numbers in its own source."""
        mine = self.heads == head
        return (np.cumsum(mine) - 1)[episodes[mine[episodes]]]


def embodiments_of(source: EpisodeSource) -> Embodiments:
    """Return the embodiments of a source; one that is not joined of several has one, under its own name."""
    names = source.embodiments if isinstance(source, JoinedSource) else ()
    distinct = list(dict.fromkeys(names))
    if not isinstance(source, JoinedSource) or len(distinct) < 2:
        name = distinct[0] if distinct else source.name
        return Embodiments(sources={name: source}, heads=np.zeros(len(source.lengths), dtype=np.int64))
    groups = {name: [own for own, its in zip(source.sources, names, strict=True) if its == name] for name in distinct}
    return Embodiments(
        sources={name: group[0] if len(group) == 1 else JoinedSource(group) for name, group in groups.items()},
        heads=np.repeat([distinct.index(name) for name in names], [len(own.lengths) for own in source.sources]),
    )
