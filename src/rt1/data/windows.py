"""From episodes to windows: index arithmetic, nothing read."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True, eq=False)
class Windows:
    """All windows of ``window`` consecutive steps that lie within the given episodes.

    An episode of S steps gives ``max(1, S - window + 1)`` windows. A shorter episode gives one window whose last places
    are padding: as on the robot, the episode's first image stands at the first place.
    """

    lengths: NDArray[np.int64]
    """(E,) steps of every episode of the source."""
    episodes: NDArray[np.int64]
    """Episodes to take windows from, in order."""
    window: int
    """T: steps of a window."""

    @cached_property
    def _ends(self) -> NDArray[np.int64]:
        return np.cumsum(np.maximum(1, self.lengths[self.episodes] - self.window + 1))

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def locate(self, number: int) -> tuple[int, int, int]:
        """Return (episode, first step, one past the last step) of window ``number``, 0..len-1."""
        if not 0 <= number < len(self):
            raise IndexError(f"window {number} of {len(self)}")
        place = int(np.searchsorted(self._ends, number, side="right"))
        start = number - (int(self._ends[place - 1]) if place else 0)
        episode = int(self.episodes[place])
        return episode, start, min(start + self.window, int(self.lengths[episode]))


def split_episodes(episodes: int, *, held_out: float, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Split episodes into training and held-out ones, by whole episodes.

    Args:
        episodes: number of episodes.
        held_out: fraction held out, in [0, 1); at least one episode is held out if it is above 0.
        seed: seed of the choice.

    Returns:
        The numbers of the training and of the held-out episodes, each ascending.
    """
    count = 0 if held_out == 0.0 else max(1, round(held_out * episodes))
    if not 0.0 <= held_out < 1.0 or count >= episodes:
        raise ValueError(
            f"held_out is {held_out} of {episodes} episodes; at least one episode must be left for training; "
            "lower held_out or record more"
        )
    chosen = np.random.default_rng((seed, 2)).permutation(episodes)[:count]
    return np.setdiff1d(np.arange(episodes), chosen), np.sort(chosen)
