"""How many robots a server carries, from the measured times of its steps."""

from __future__ import annotations

import time
from bisect import bisect_right
from collections import deque
from collections.abc import Mapping
from statistics import median

import numpy as np

from rt1.policy.policy import Policy

_RECENT = 64
_REPEATS = 3
_IMAGE = (256, 320, 3)


class Capacity:
    """Predicts how long a request takes when all robots ask at once; no robot can ask again before it has its answer.

    The times of batches measured at the start give the shape, the recent batches how much slower the machine is now.
    """

    def __init__(self, times: Mapping[int, float], *, max_latency: float) -> None:
        """Store measured times, batch size to seconds with an entry for 1, and the seconds a request may take."""
        assert 1 in times
        self._sizes = sorted(times)
        self._times = np.maximum.accumulate([times[size] for size in self._sizes])  # against noise
        self._max_latency = max_latency
        self._slowdowns: deque[float] = deque([1.0], maxlen=_RECENT)

    @property
    def max_batch(self) -> int:
        """Robots in the largest batch measured."""
        return self._sizes[-1]

    def learn(self, robots: int, seconds: float) -> None:
        """Update the current speed of the machine from a measured batch."""
        self._slowdowns.append(seconds / self._measured(robots))

    def seconds(self, robots: int) -> float:
        """Return how long the machine takes now for one step of each of so many robots."""
        rounds, rest = divmod(robots, self.max_batch)
        measured = rounds * float(self._times[-1]) + (self._measured(rest) if rest else 0.0)
        return measured * median(self._slowdowns)

    def saving(self, robots: int) -> float:
        """Return the seconds saved when one more robot joins a batch instead of following it; below 0 where none."""
        if robots >= self.max_batch:
            return 0.0
        return self.seconds(robots) + self.seconds(1) - self.seconds(robots + 1)

    def carries(self, robots: int) -> bool:
        """Return whether so many robots get their answers within the latency; one is always carried."""
        return robots <= 1 or self.seconds(robots) <= self._max_latency

    def sessions(self, most: int) -> int:
        """Return how many robots get their answers within the latency, 1..most; one is always carried."""
        return 1 + bisect_right(range(2, most + 1), self._max_latency, key=self.seconds)

    def _measured(self, robots: int) -> float:
        return float(np.interp(robots, self._sizes, self._times))


def measured_times(policy: Policy, *, max_batch: int, max_latency: float) -> dict[int, float]:
    """Take steps of 1, 2, 4, ... robots, which also warms everything up, and return how long each size takes, seconds.

    The sizes end at ``max_batch``, or before the first one that takes longer than ``max_latency``: such a batch would
    keep all its robots waiting too long.
    """
    image = np.zeros(_IMAGE, np.uint8)
    full = policy.start(np.zeros(policy.sizes.text_width, np.float32))
    for _ in range(policy.sizes.window):  # a full window is what a robot has nearly always
        policy.step([full], [image])
    times: dict[int, float] = {}
    for size in _sizes(max_batch):
        states = [full.copy() for _ in range(size)]
        seconds = []
        for _ in range(1 + _REPEATS):  # the first of a size may be slow
            start = time.perf_counter()
            policy.step(states, [image] * size)
            seconds.append(time.perf_counter() - start)
        if times and min(seconds) > max_latency:
            break
        times[size] = min(seconds)
    return times


def _sizes(most: int) -> list[int]:
    return [*(1 << power for power in range(most.bit_length()) if 1 << power < most), most]
