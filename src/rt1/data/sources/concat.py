"""Sources made of other sources: several joined, and one with mapped actions."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rt1.actions import ActionSpec, FloatArray, spec_difference
from rt1.data.sources.base import CORRECTIONS, EpisodeSource, check_steps, instructions_of, optional_members
from rt1.data.sources.decoding import decoded_images
from rt1.errors import DataError

MapActions = Callable[[FloatArray], FloatArray]
"""Pure function of consecutive actions, float32 (S, A), to those of another spec, float32 (S, A'), step by step."""


class DerivedSource(ABC):
    """Base of an :class:`~rt1.data.sources.base.EpisodeSource` whose episodes lie in other sources."""

    name: str
    lengths: NDArray[np.int64]
    text_encoder: Mapping[str, Any] | None
    skipped: Sequence[str]
    details: Mapping[str, Any]
    cache_folder: Path | None = None

    @abstractmethod
    def part(self, episode: int) -> tuple[EpisodeSource, int]:
        """Return the source of an episode and the episode's number there."""

    def instruction(self, episode: int) -> str:
        source, number = self.part(episode)
        return source.instruction(number)

    def instructions(self, episode: int) -> tuple[str, ...]:
        return instructions_of(*self.part(episode))

    def task(self, episode: int) -> str:
        source, number = self.part(episode)
        return source.task(number)

    def text_embedding(self, episode: int) -> FloatArray | None:
        source, number = self.part(episode)
        return source.text_embedding(number)

    def encoded_images(self, episode: int, start: int, stop: int) -> list[bytes]:
        """Return the JPEG or PNG bytes as the episode's source has them. :meth:`images` knows which are BGR."""
        source, number = self.part(episode)
        return source.encoded_images(number, start, stop)

    def images(self, episode: int, start: int, stop: int) -> list[NDArray[np.uint8]]:
        return decoded_images(*origin(*self.part(episode)), start, stop)

    def actions(self, episode: int, start: int, stop: int) -> FloatArray:
        source, number = self.part(episode)
        return source.actions(number, start, stop)


class JoinedSource(DerivedSource):
    """The episodes of several sources, numbered through, an :class:`~rt1.data.sources.base.EpisodeSource`."""

    def __init__(self, sources: Sequence[EpisodeSource], *, embodiments: Sequence[str | None] = ()) -> None:
        """Join sources.

        Args:
            sources: at least one.
            embodiments: one name per source, for sources with different action specs. Sources of one name have one
                spec and share a head of the network. None stands for the source's name. Empty, or None only: all
                sources have one spec.

        Raises:
            DataError: no source, different action specs of one embodiment, or different numbers of bins.
        """
        if not sources:
            raise DataError("there are no sources to join. Give at least one")
        self.sources = tuple(sources)
        self.name = "+".join(source.name for source in sources)
        self.embodiments = _embodiment_names(self.sources, embodiments)
        """Name of each source's embodiment. Empty if all have one action spec."""
        self.groups: dict[str, list[EpisodeSource]] = {}
        """The sources of each embodiment. All under "" if there are no names."""
        for source, name in zip(sources, self.embodiments or [""] * len(sources), strict=True):
            self.groups.setdefault(name, []).append(source)
        self._specs = {name: _common_spec(name, group) for name, group in self.groups.items()}
        if len({spec.bins for spec in self._specs.values()}) > 1:
            bins = ", ".join(f"{name} {spec.bins}" for name, spec in self._specs.items())
            cure = "The heads of a network share theirs. Set bins in the mixture file"
            raise DataError(f"the embodiments have different numbers of bins: {bins}. {cure}")
        self.lengths: NDArray[np.int64] = np.concatenate([source.lengths for source in sources])
        self.firsts: NDArray[np.int64] = np.cumsum([0, *(len(source.lengths) for source in sources[:-1])])
        """(sources,) number of each source's first episode."""
        encoders = [optional_members(source).text_encoder for source in sources]
        self._one_encoder = all(encoder == encoders[0] for encoder in encoders)
        self.text_encoder = encoders[0] if self._one_encoder else None
        """Identity of the encoder of the stored text embeddings. None if unknown or not the same for all."""
        self.details = _common_details([optional_members(source).details for source in sources])

    @property
    def action_spec(self) -> ActionSpec:
        """Dimensions and bounds of the actions. Several embodiments have no common one and raise ``DataError``."""
        if len(self._specs) > 1:
            raise DataError(
                f"{self.name} has the embodiments {', '.join(self._specs)}, each with an action spec of its own. Give "
                "the data of one of them"
            )
        return next(iter(self._specs.values()))

    def part(self, episode: int) -> tuple[EpisodeSource, int]:
        """Return the source of an episode and the episode's number there."""
        check_steps(self, episode)
        number = int(np.searchsorted(self.firsts, episode, side="right")) - 1
        return self.sources[number], episode - int(self.firsts[number])

    def text_embedding(self, episode: int) -> FloatArray | None:
        """Return the text embedding stored with an episode. Sources with different encoders raise ``DataError``."""
        if not self._one_encoder:
            raise DataError(
                f"the text embeddings of {self.name} come from different encoders. Name one for all instructions"
            )
        return super().text_embedding(episode)


class WrappedSource(DerivedSource):
    """Base of a source that is another one with a change. What a method does not change is that of the other one."""

    def __init__(self, source: EpisodeSource, *, same_actions: bool = True) -> None:
        """Wrap a source. With ``same_actions`` the statistics are cached in its folder, too."""
        self.source = source
        self.name, self.lengths = source.name, source.lengths
        members = optional_members(source)
        self.text_encoder, self.skipped = members.text_encoder, members.skipped
        self.details = dict(members.details)
        self.cache_folder = members.cache_folder if same_actions else None

    @property
    def action_spec(self) -> ActionSpec:
        return self.source.action_spec

    def part(self, episode: int) -> tuple[EpisodeSource, int]:
        return self.source, episode


class MappedSource(WrappedSource):
    """A source with its actions mapped to another spec, so that it can be joined with others."""

    def __init__(self, source: EpisodeSource, action_spec: ActionSpec, map_actions: MapActions) -> None:
        """Wrap a source. The mapping is tested on the first step."""
        super().__init__(source, same_actions=False)
        self._spec, self._map = action_spec, map_actions
        self.actions(0, 0, 1)

    @property
    def action_spec(self) -> ActionSpec:
        return self._spec

    def actions(self, episode: int, start: int, stop: int) -> FloatArray:
        """Return the mapped actions, float32 (stop - start, A)."""
        mapped = self._map(self.source.actions(episode, start, stop))
        if mapped.dtype != np.float32 or mapped.shape != (stop - start, self.action_spec.size):
            raise DataError(
                f"{self.name}, episode {episode}: the mapping returned {mapped.dtype} {mapped.shape}. "
                f"It must return float32 ({stop - start}, {self.action_spec.size})"
            )
        return mapped


class DefaultInstruction(WrappedSource):
    """A source whose episodes without an instruction have a default one."""

    def __init__(self, source: EpisodeSource, instruction: str) -> None:
        """Wrap a source. ``instruction`` is the default."""
        super().__init__(source)
        self._instruction, self.text_encoder = instruction, None

    def instruction(self, episode: int) -> str:
        """Return the stored instruction, or the default where it is empty."""
        return self.instructions(episode)[0]

    def instructions(self, episode: int) -> tuple[str, ...]:
        """Return the stored instructions, or the default where the first one is empty."""
        sentences = instructions_of(self.source, episode)
        return sentences if sentences[0].strip() else (self._instruction,)

    def text_embedding(self, episode: int) -> FloatArray | None:
        """Return None: the default instruction has no stored text embedding, and all episodes need one or none."""
        check_steps(self, episode)
        return None


def origin(source: EpisodeSource, episode: int) -> tuple[EpisodeSource, int]:
    """Return the stored source that holds an episode, below joining and mapping, and the episode's number there."""
    while isinstance(source, DerivedSource):
        source, episode = source.part(episode)
    return source, episode


def _embodiment_names(sources: Sequence[EpisodeSource], names: Sequence[str | None]) -> tuple[str, ...]:
    if all(name is None for name in names):
        return ()
    if any(name == "" for name in names):
        raise DataError("the name of an embodiment is empty. Give it a name, or leave it out for the data set's")
    return tuple(source.name if name is None else name for source, name in zip(sources, names, strict=True))


def _common_details(details: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the details that are equal in all sources, and :data:`CORRECTIONS` if one of them has them."""
    first, *others = details
    common = {name: value for name, value in first.items() if all(other.get(name) == value for other in others)}
    return common | ({CORRECTIONS: True} if any(one.get(CORRECTIONS) for one in details) else {})


def _common_spec(name: str, sources: Sequence[EpisodeSource]) -> ActionSpec:
    """Return the action spec of the sources of an embodiment. "" stands for no name."""
    first, *others = sources
    for source in others:
        if source.action_spec != first.action_spec:
            difference = spec_difference(first.action_spec, source.action_spec)
            both, cure = "", 'give each a head of its own, in a mixture file with heads = "separate"'
            if name:
                both, cure = f" are both the embodiment {name!r} and", "name another embodiment for one of them"
            if first.action_spec.dimension_names == source.action_spec.dimension_names:
                cure = f'give all the same --bounds, set bounds = "widest" in a mixture file, or {cure}'
            raise DataError(
                f"{first.name} and {source.name}{both} have different action specs ({difference}). Map one to the "
                f"other's: MappedSource(source, action_spec, function), or {cure}"
            )
    return first.action_spec


@dataclass(frozen=True, kw_only=True, eq=False)
class Embodiments:
    """The embodiments of a source. An embodiment's number is also that of the network's head."""

    sources: Mapping[str, EpisodeSource]
    """The episodes of each embodiment by name."""
    heads: NDArray[np.int64]
    """(E,) number of each episode's embodiment."""

    @property
    def several(self) -> bool:
        """Whether there is more than one."""
        return len(self.sources) > 1

    @cached_property
    def specs(self) -> dict[str, ActionSpec]:
        """Action spec of each embodiment by name."""
        return {name: source.action_spec for name, source in self.sources.items()}

    @property
    def size(self) -> int:
        """A: dimensions of the longest action."""
        return max(spec.size for spec in self.specs.values())

    def own_numbers(self, head: int, episodes: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the episodes of one embodiment among ``episodes``, by their numbers in its own source."""
        mask = self.heads == head
        return (np.cumsum(mask) - 1)[episodes[mask[episodes]]]


def embodiments_of(source: EpisodeSource) -> Embodiments:
    """Return the embodiments of a source. One that is not joined has one, under its own name."""
    groups = source.groups if isinstance(source, JoinedSource) else {}
    if not isinstance(source, JoinedSource) or len(groups) < 2:
        name = next(iter(groups), "") or source.name
        return Embodiments(sources={name: source}, heads=np.zeros(len(source.lengths), dtype=np.int64))
    numbers = [list(groups).index(name) for name in source.embodiments]
    return Embodiments(
        sources={name: group[0] if len(group) == 1 else JoinedSource(group) for name, group in groups.items()},
        heads=np.repeat(numbers, [len(part.lengths) for part in source.sources]),
    )
