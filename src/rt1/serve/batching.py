"""Steps of many robots taken as batches: whoever waits goes together, first come, first served."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Executor
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray

from rt1.actions import FloatArray
from rt1.errors import GoneError, PolicyError
from rt1.policy.policy import Policy
from rt1.policy.stepper import EpisodeState, PreparedImage
from rt1.serve.capacity import Capacity

_ACTIVE_SECONDS = 1.0
"""A robot that asked so long ago is expected to ask again at any time."""


@dataclass(frozen=True, kw_only=True)
class Stepped:
    """A robot's action (A,) in physical units, its episode after the step, and the seconds of its batch."""

    action: FloatArray
    state: EpisodeState
    seconds: float


@dataclass(frozen=True, kw_only=True)
class _Job:
    state: EpisodeState
    image: NDArray[Any] | PreparedImage
    is_wanted: Callable[[], bool]
    done: asyncio.Future[Stepped]
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
        self._policy, self._capacity, self._max_wait, self._on_batch = policy, capacity, max_wait, on_batch
        self._queue: deque[_Job] = deque()
        self._taking: list[_Job] = []
        self._arrived = asyncio.Event()
        self._last_asked: dict[Hashable, float] = {}
        self._worker = worker

    async def step(
        self,
        robot: Hashable,
        state: EpisodeState,
        image: NDArray[Any] | PreparedImage,
        *,
        is_wanted: Callable[[], bool] = lambda: True,
    ) -> Stepped:
        """Take a robot's step in a batch with other robots' steps. The robot's ``state`` does not change.

        Raises:
            GoneError: ``is_wanted`` returned False before the step.
            Exception: what the step of this robot alone raises. Other robots are not affected.
        """
        job = _Job(state=state, image=image, is_wanted=is_wanted, done=asyncio.get_running_loop().create_future())
        self._last_asked[robot] = job.arrived
        self._queue.append(job)
        self._arrived.set()
        return await job.done

    @property
    def waiting(self) -> int:
        return len(self._queue)

    def oldest_wait(self) -> float:
        """Return how long the oldest step, in the queue or being taken, has been waiting, seconds."""
        waiting = [*self._taking, *self._queue]
        return time.monotonic() - waiting[0].arrived if waiting else 0.0

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            self._taking = jobs = await self._next_batch()
            if not jobs:
                continue
            results = await loop.run_in_executor(self._worker, self._take, jobs, loop)
            self._taking = []
            for job, result in zip(jobs, results, strict=True):
                if job.done.done():  # its task was canceled
                    continue
                if isinstance(result, Stepped):
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
                job.done.set_exception(GoneError("the robot has gone"))
        return jobs

    async def _wait_for_others(self) -> None:
        wait = min(self._max_wait, self._capacity.saving(len(self._queue)))
        deadline = self._queue[0].arrived + wait
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

    def _learn(self, robots: int, seconds: float) -> None:
        self._capacity.learn(robots, seconds)
        self._on_batch(robots, seconds)

    def _take(self, jobs: Sequence[_Job], loop: asyncio.AbstractEventLoop) -> list[Stepped | Exception]:
        """Take the steps of a batch. If the batch fails, take each step alone to find the robot that fails."""
        states = [job.state.copy() for job in jobs]  # if the batch fails, the episodes are as before
        start = time.perf_counter()
        try:
            logits_SAV = self._policy.step(states, [job.image for job in jobs])
        except Exception as error:  # noqa: BLE001 (one robot's failure must not reach the others)
            return [error] if len(jobs) == 1 else [result for job in jobs for result in self._take([job], loop)]
        seconds = time.perf_counter() - start
        loop.call_soon_threadsafe(self._learn, len(jobs), seconds)
        return [self._stepped(*step, seconds) for step in zip(logits_SAV, states, strict=True)]

    def _stepped(self, logits_AV: FloatArray, state: EpisodeState, seconds: float) -> Stepped | PolicyError:
        # Logits that are not finite are an error of this robot alone.
        try:
            _, action = self._policy.action_spec.decode_logits(logits_AV)
        except PolicyError as error:
            return error
        return Stepped(action=action, state=state, seconds=seconds)
