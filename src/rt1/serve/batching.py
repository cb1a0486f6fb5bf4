"""Steps of many robots as batches, first come, first served, and how many robots a machine carries."""

from __future__ import annotations

import asyncio
import time
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Hashable, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import suppress
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rt1.actions import FloatArray
from rt1.errors import ClientDisconnectedError, PolicyError
from rt1.policy.policy import Policy
from rt1.policy.stepper import EpisodeState, PreparedImage

_ACTIVE_SECONDS = 1.0
"""A robot that asked so long ago is expected to ask again at any time."""
_RECENT = 64
"""Batches that the current speed of the machine is measured from."""
_REPEATS = 3
_ENOUGH_SECONDS = 0.3
"""A size of batches that took so long is not measured again."""
_IMAGE = (256, 320, 3)


class Capacity:
    """Predicts how long a request takes when all robots ask at once. No robot can ask again before it has its answer.

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
        """Return the seconds saved when one more robot joins a batch instead of following it. Below 0 where none."""
        if robots >= self.max_batch:
            return 0.0
        return self.seconds(robots) + self.seconds(1) - self.seconds(robots + 1)

    def sessions(self, most: int) -> int:
        """Return how many robots get their answers within the latency, 1..most. One is always carried."""
        return 1 + bisect_right(range(2, most + 1), self._max_latency, key=self.seconds)

    def _measured(self, robots: int) -> float:
        return float(np.interp(robots, self._sizes, self._times))


def measured_times(policy: Policy, *, max_batch: int, max_latency: float) -> dict[int, float]:
    """Take steps of 1, 2, 4, ... robots, which also warms everything up, and return how long each size takes, seconds.

    The sizes end at ``max_batch``, or before the first one that takes longer than ``max_latency``.
    """
    image = np.zeros(_IMAGE, np.uint8)
    full = policy.start(np.zeros(policy.sizes.text_width, np.float32))
    for _ in range(policy.sizes.window):  # a full window is what a robot has nearly always
        policy.step([full], [image])
    times: dict[int, float] = {}
    for size in sorted({min(1 << power, max_batch) for power in range(max_batch.bit_length() + 1)}):
        states = [full.copy() for _ in range(size)]
        seconds: list[float] = []
        while len(seconds) <= (_REPEATS if sum(seconds) < _ENOUGH_SECONDS else 1):  # the first of a size may be slow
            start = time.perf_counter()
            policy.step(states, [image] * size)
            seconds.append(time.perf_counter() - start)
        if times and min(seconds) > max_latency:
            break
        times[size] = min(seconds)
    return times


@dataclass(frozen=True, kw_only=True)
class StepReply:
    """A robot's action (A,) in physical units, its episode after the step, and the seconds of its batch."""

    action: FloatArray
    state: EpisodeState
    seconds: float


@dataclass(frozen=True, kw_only=True)
class _Job:
    state: EpisodeState
    image: NDArray[Any] | PreparedImage
    is_wanted: Callable[[], bool]
    done: asyncio.Future[StepReply]
    arrived: float = field(default_factory=time.monotonic)


class Batcher:
    """Takes the steps of many robots, one batch at a time, in a worker thread. Belongs to one event loop.

    A robot has at most one step in the queue, so no robot can crowd out another. A step waits for other robots at most
    ``max_wait``, at most as long as one more robot would save, and only while other robots are active.
    """

    def __init__(
        self,
        policy: Policy,
        capacity: Capacity,
        worker: Executor,
        *,
        max_wait: float,
        on_batch: Callable[[int, float], None],
    ) -> None:
        """Store the policy, whose own episode is not used, and the single-threaded worker that runs its steps.

        ``max_wait`` is in seconds. ``on_batch`` is called with the robots and the seconds of each batch.
        """
        self._policy, self._capacity, self._worker = policy, capacity, worker
        self._max_wait, self._on_batch = max_wait, on_batch
        self._queue: deque[_Job] = deque()
        self._taking: list[_Job] = []
        self._arrived = asyncio.Event()
        self._last_asked: dict[Hashable, float] = {}

    async def step(
        self,
        robot: Hashable,
        state: EpisodeState,
        image: NDArray[Any] | PreparedImage,
        *,
        is_wanted: Callable[[], bool] = lambda: True,
    ) -> StepReply:
        """Take a robot's step in a batch with other robots' steps. The robot's ``state`` does not change.

        Raises:
            ClientDisconnectedError: ``is_wanted`` returned False before the step.
            Exception: what the step of this robot alone raises. Other robots are not affected.
        """
        job = _Job(state=state, image=image, is_wanted=is_wanted, done=asyncio.get_running_loop().create_future())
        self._last_asked[robot] = job.arrived
        self._queue.append(job)
        self._arrived.set()
        return await job.done

    @property
    def waiting(self) -> int:
        """Steps in the queue."""
        return len(self._queue)

    def oldest_wait(self) -> float:
        """Return how long the oldest step, in the queue or being taken, has been waiting, seconds."""
        jobs = [*self._taking, *self._queue]
        return time.monotonic() - jobs[0].arrived if jobs else 0.0

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            self._taking = jobs = await self._next_batch()
            results = await loop.run_in_executor(self._worker, self._take, jobs, loop) if jobs else []
            self._taking = []
            for job, result in zip(jobs, results, strict=True):
                if job.done.done():  # its task was canceled
                    continue
                if isinstance(result, StepReply):
                    job.done.set_result(result)
                else:
                    job.done.set_exception(result)

    async def _next_batch(self) -> list[_Job]:
        while not self._queue:
            self._arrived.clear()
            await self._arrived.wait()
        await self._wait_for_others()
        jobs: list[_Job] = []
        while self._queue and len(jobs) < self._capacity.max_batch:
            job = self._queue.popleft()
            if job.is_wanted():
                jobs.append(job)
            elif not job.done.done():
                job.done.set_exception(ClientDisconnectedError("the robot has gone"))
        return jobs

    async def _wait_for_others(self) -> None:
        deadline = self._queue[0].arrived + min(self._max_wait, self._capacity.saving(len(self._queue)))
        most = min(self._capacity.max_batch, self._active())
        while len(self._queue) < most and (rest := deadline - time.monotonic()) > 0:
            self._arrived.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(rest):
                    await self._arrived.wait()

    def _active(self) -> int:
        past = time.monotonic() - _ACTIVE_SECONDS
        self._last_asked = {robot: asked for robot, asked in self._last_asked.items() if asked > past}
        return max(len(self._last_asked), len(self._queue))

    def _take(self, jobs: Sequence[_Job], loop: asyncio.AbstractEventLoop) -> list[StepReply | Exception]:
        """Take the steps of a batch. If the batch fails, take each step alone to find the robot that fails."""
        states = [job.state.copy() for job in jobs]  # if the batch fails, the episodes are as before
        start = time.perf_counter()
        try:
            logits_SAV = self._policy.step(states, [job.image for job in jobs])
        except Exception as error:  # noqa: BLE001 (one robot's failure must not reach the others)
            return [error] if len(jobs) == 1 else [result for job in jobs for result in self._take([job], loop)]
        seconds = time.perf_counter() - start
        for listener in (self._capacity.learn, self._on_batch):
            loop.call_soon_threadsafe(listener, len(jobs), seconds)
        results: list[StepReply | Exception] = []
        for logits_AV, state in zip(logits_SAV, states, strict=True):
            try:
                _, action = self._policy.action_spec.decode_logits(logits_AV)
            except PolicyError as error:  # logits that are not finite are an error of this robot alone
                results.append(error)
            else:
                results.append(StepReply(action=action, state=state, seconds=seconds))
        return results
