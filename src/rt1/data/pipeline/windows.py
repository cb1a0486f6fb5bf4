"""From episodes to windows and clips: index arithmetic, nothing read."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rt1.common.json_config import check_at_least
from rt1.data.sources.base import locate

_FIXED = {"padding": "none", "stride": 1, "goal_steps": 0, "goal_factor": 1}
"""What a run's state notes of its windows since they had these options."""


class WindowBounds(NamedTuple):
    """Episode, first step and one past the last step of n samples, each int64 (n,)."""

    episodes: NDArray[np.int64]
    starts: NDArray[np.int64]
    stops: NDArray[np.int64]


class ClipWindows(NamedTuple):
    """How G windows of T steps are cut from each of B clips of S steps."""

    index_BGT: NDArray[np.int64]
    """Index in the clip, 0..S-1, of each window's steps. Where padded, any index that may be read."""
    valid_BGT: NDArray[np.bool_]
    """True for real steps. All False for a missing window at the end of an episode."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Windows:
    """All windows of ``window`` consecutive steps of some episodes.

    An episode of S steps gives ``max(1, S - window + 1)`` windows. An episode shorter than a window gives one, padded
    at the end: as on the robot, its first image is the episode's first.
    """

    lengths: NDArray[np.int64]
    """(E,) steps of every episode of the source."""
    episodes: NDArray[np.int64]
    """Episodes to take windows from, in order."""
    window: int
    """T: steps of a window."""

    def __post_init__(self) -> None:
        check_at_least(self, 1, "window")

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    @property
    def steps(self) -> int:
        """Steps of a sample: those of a window."""
        return self.window

    @cached_property
    def per_episode(self) -> NDArray[np.int64]:
        """Number of windows of each of ``episodes``."""
        return np.maximum(1, self.lengths[self.episodes] - self.window + 1)

    def places(self, numbers: NDArray[np.int64]) -> WindowBounds:
        """Return the places of windows by number, int64 (n,), 0..len-1."""
        rows, starts = locate(self._ends, numbers)
        episodes = self.episodes[rows]
        return WindowBounds(episodes, starts, np.minimum(starts + self.window, self.lengths[episodes]))

    def cuts(self, numbers: NDArray[np.int64]) -> None:
        """Return None: windows are not cut from anything."""

    def describe(self) -> dict[str, Any]:
        """Return what decides the windows as plain data, for comparison."""
        lengths = self.lengths[self.episodes]
        counts = {"episodes": len(lengths), "steps": int(lengths.sum())}
        checksum = zlib.crc32(np.concatenate([self.episodes, lengths]).astype("<i8").tobytes())
        return {"window": self.window, **_FIXED, **counts, "checksum": checksum}

    @cached_property
    def _ends(self) -> NDArray[np.int64]:
        return np.cumsum(self.per_episode)


@dataclass(frozen=True, kw_only=True, eq=False)
class Clips:
    """Runs of ``group`` neighboring windows: their steps are read and encoded once, then the windows are cut.

    One pass over the clips holds every window once. The last clip of an episode may hold fewer.
    """

    windows: Windows
    group: int
    """G: windows in a clip."""

    def __post_init__(self) -> None:
        check_at_least(self, 1, "group")

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    @property
    def window(self) -> int:
        """T: steps of a window."""
        return self.windows.window

    @property
    def steps(self) -> int:
        """S: steps of a clip."""
        return self.windows.window + self.group - 1

    def places(self, numbers: NDArray[np.int64]) -> WindowBounds:
        """Return the places of clips by number, int64 (n,), 0..len-1, always within their episodes."""
        rows, first, last = self._groups(numbers)
        episodes = self.windows.episodes[rows]
        return WindowBounds(episodes, first, np.minimum(last + self.window, self.windows.lengths[episodes]))

    def cuts(self, numbers: NDArray[np.int64]) -> ClipWindows:
        """Return the windows of clips by number, int64 (B,)."""
        _, first, last = self._groups(numbers)
        places = self.places(numbers)
        steps_B11 = (places.stops - places.starts)[:, None, None]
        window_G1 = np.arange(self.group)[:, None]
        place_GT = window_G1 + np.arange(self.window)
        exists_BG1 = window_G1 <= (last - first)[:, None, None]
        return ClipWindows(np.minimum(place_GT, steps_B11 - 1), (place_GT < steps_B11) & exists_BG1)

    def describe(self) -> dict[str, Any]:
        """Return what decides the clips as plain data, for comparison."""
        return {**self.windows.describe(), "group": self.group}

    @cached_property
    def _ends(self) -> NDArray[np.int64]:
        return np.cumsum((self.windows.per_episode - 1) // self.group + 1)

    def _groups(self, numbers: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Return the row in ``episodes``, the first and the last window of each clip."""
        rows, within = locate(self._ends, numbers)
        first = within * self.group
        return rows, first, np.minimum(first + self.group, self.windows.per_episode[rows]) - 1


def split_episodes(episodes: int, *, held_out: float, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the numbers of the training and of the held-out episodes, each ascending.

    ``held_out`` is the fraction held out, in [0, 1). At least one episode is held out if it is above 0.
    """
    count = 0 if held_out == 0.0 else max(1, round(held_out * episodes))
    if not 0.0 <= held_out < 1.0 or count >= episodes:
        raise ValueError(
            f"held_out is {held_out} of {episodes} episodes. At least one episode must be left for training. "
            "Lower held_out or record more"
        )
    numbers = np.random.default_rng((seed, 2)).permutation(episodes)[:count]
    return np.setdiff1d(np.arange(episodes), numbers), np.sort(numbers)
