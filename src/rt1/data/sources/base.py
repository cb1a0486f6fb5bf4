"""The protocol of episode sources: episodes by index, in any file format."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from rt1.actions import ActionSpec, FloatArray
from rt1.errors import DataError


def check_steps(source: EpisodeSource, episode: int, start: int = 0, stop: int = 0) -> None:
    """Raise ``IndexError`` if a source lacks this episode or its steps ``start..stop-1``."""
    if not 0 <= episode < len(source.lengths):
        raise IndexError(f"{source.name}: episode {episode}. It has the episodes 0..{len(source.lengths) - 1}")
    length = source.lengths[episode]
    if not 0 <= start <= stop <= length:
        raise IndexError(f"{source.name}: steps {start}..{stop} of episode {episode}, which has {length} steps")


def check_finite(actions: FloatArray, name: str) -> None:
    """Raise :class:`DataError` with the step for the first of an episode's actions (S, A) that is not finite."""
    finite = np.isfinite(actions).all(axis=1)
    if not finite.all():
        step = int(np.argmin(finite))
        raise DataError(f"{name}, step {step} is {actions[step].tolist()}. It must be finite. Leave that episode out")


def locate(ends: NDArray[np.int64], numbers: Any) -> tuple[Any, Any]:  # noqa: ANN401 (int or int64 (n,))
    """Return the run that each number falls in, and its place in that run. ``ends`` are the ends of the runs."""
    runs = np.searchsorted(ends, numbers, side="right")
    return runs, numbers - np.where(runs > 0, ends[runs - 1], 0)


@runtime_checkable
class EpisodeSource(Protocol):
    """Recorded episodes by index. ``rt1.testing.check_source`` checks an implementation.

    Reading is random access and thread-safe. Only an index is held in memory. Your own data set is an object with these
    members, given to ``rt1.train.loop.train``. It may also have some of :class:`OptionalMembers`.
    """

    name: str
    """Short name for tables and errors."""
    lengths: NDArray[np.int64]
    """(E,) number of steps of each episode, at least 1."""

    @property
    def action_spec(self) -> ActionSpec:
        """Dimensions and bounds of the actions. An attribute will do."""
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
        """Return the JPEG or PNG bytes of steps ``start..stop-1``. See :func:`rt1.data.sources.images.decode_image`."""
        ...

    def actions(self, episode: int, start: int, stop: int) -> FloatArray:
        """Return float32 (stop - start, A), physical units as stored (not clipped)."""
        ...


CORRECTIONS = "expert_corrections"
"""Key in the details of a data set in which a policy acted and an expert labeled the steps. It is also in the
provenance of the checkpoints trained on them: such a policy has seen more of the expert than the recorded episodes."""
CORRECTED = "with expert corrections"
"""What reports call such a policy."""


def has_corrections(facts: Mapping[str, Any]) -> bool:
    """Return whether a data set's details, or a checkpoint's provenance, have expert corrections."""
    initial = facts.get("init")  # of a policy that training started from
    return bool(facts.get(CORRECTIONS) or (isinstance(initial, Mapping) and initial.get(CORRECTIONS)))


OUTCOMES = ("success", "seed", "reward")
"""What a data set may say of how its episodes ended."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How an episode ended. None is what its data set does not say."""

    success: bool | None = None
    """Whether the task was solved."""
    seed: int | None = None
    """Seed of the environment's reset."""
    rewards: FloatArray | None = None
    """float32 (steps,)."""

    def keys(self) -> tuple[str, ...]:
        """Return the names of :data:`OUTCOMES` that the data set says."""
        values = (self.success, self.seed, self.rewards)
        return tuple(key for key, value in zip(OUTCOMES, values, strict=True) if value is not None)


@dataclass(frozen=True, kw_only=True)
class OptionalMembers:
    """Members that an :class:`EpisodeSource` may have, each with the value that is assumed where it is missing."""

    text_encoder: Mapping[str, Any] | None = None
    """Identity of the encoder of the stored text embeddings (name, sha256, width). None where it is not known."""
    details: Mapping[str, Any] = field(default_factory=dict)
    """Plain JSON about the recording: ``control_rate`` in Hz, ``tasks``, and ``env``, the task suite."""
    bgr: bool = False
    """Whether ``encoded_images`` decode to blue, green, red."""
    images: Callable[[int, int, int], list[NDArray[np.uint8]]] | None = None
    """Method ``images(episode, start, stop)``: the same steps decoded, uint8 RGB (H, W, 3), whatever ``bgr`` is. Useful
    where the images are stored as arrays or as a video."""
    instructions: Callable[[int], Sequence[str]] | None = None
    """Method ``instructions(episode)``: all sentences of an episode, its instruction first. None where it has one."""
    outcome: Callable[[int], Outcome] | None = None
    """Method ``outcome(episode)``: success, seed and rewards of an episode, as far as the data set says."""
    skipped: Sequence[str] = ()
    """One message for each damaged record that was left out."""
    cache_folder: Path | None = None
    """Folder for files made from the data, such as statistics."""


def instructions_of(source: EpisodeSource, episode: int) -> tuple[str, ...]:
    """Return all sentences of an episode, its instruction first."""
    several = optional_members(source).instructions
    return (source.instruction(episode),) if several is None else tuple(several(episode))


def all_instructions(source: EpisodeSource) -> list[str]:
    """Return the different sentences of all episodes, in their order."""
    episodes = range(len(source.lengths))
    return list(dict.fromkeys(sentence for episode in episodes for sentence in instructions_of(source, episode)))


def optional_members(source: EpisodeSource) -> OptionalMembers:
    """Return the optional members of a source, with defaults for those it does not have."""
    names = [f.name for f in fields(OptionalMembers)]
    return OptionalMembers(**{name: getattr(source, name) for name in names if hasattr(source, name)})
