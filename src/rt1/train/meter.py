"""What the updates since the last line of metrics amounted to: means, and how fast they went."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any


class Meter:
    """Adds up the values of updates, and gives their means; an interrupted one goes on where it was."""

    def __init__(self) -> None:
        """Start the clock."""
        self._sums: dict[str, float] = {}
        self._updates = 0
        self._since = time.monotonic()

    def add(self, values: Mapping[str, float]) -> None:
        """Add the values of one update."""
        for name, value in values.items():
            self._sums[name] = self._sums.get(name, 0.0) + value
        self._updates += 1

    def take(self, *, windows: int) -> dict[str, float]:
        """Return the means since the last call and ``windows_per_second``, and begin anew.

        Args:
            windows: windows of an update.
        """
        seconds = time.monotonic() - self._since
        means = {name: total / self._updates for name, total in self._sums.items()}
        means["windows_per_second"] = self._updates * windows / seconds
        self._sums.clear()
        self._updates = 0
        self._since = time.monotonic()
        return means

    def state_dict(self) -> dict[str, Any]:
        """Return what :meth:`load_state_dict` needs, as plain data."""
        return {"sums": dict(self._sums), "updates": self._updates, "seconds": time.monotonic() - self._since}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where the state was taken."""
        self._sums, self._updates = dict(state["sums"]), int(state["updates"])
        self._since = time.monotonic() - float(state["seconds"])
