"""Parts of a robot's control loop: a fixed rate, limits on actions, a watchdog. No torch."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from rt1.actions import ActionSpec, FloatArray
from rt1.errors import StoppedError


class Rate:
    """A fixed rate on the monotonic clock. After a late tick the next one is a whole period later: never a burst."""

    def __init__(self, hertz: float) -> None:
        """Start with the first tick now. ``hertz`` is ticks per second, above 0."""
        if not 0 < hertz < math.inf:
            raise ValueError(f"the rate is {hertz} Hz, must be above 0 and finite")
        self.period = 1.0 / hertz
        """Seconds between two ticks."""
        self._next = time.monotonic() + self.period

    def wait(self) -> float:
        """Sleep until the next tick. Return how many seconds too late for it this was called, 0 if it was not."""
        late = time.monotonic() - self._next
        if late < 0:
            time.sleep(-late)
            self._next += self.period
            return 0.0
        self._next += late + self.period
        return late


@dataclass(frozen=True, kw_only=True)
class ActionLimits:
    """Limits on actions: bounds of each dimension, and the largest change from one action to the next."""

    spec: ActionSpec
    """Dimensions and bounds. :attr:`rt1.serve.client.Client.action_spec` is the one of the server's policy."""
    max_change: float = 1.0
    """Largest change from one action to the next, as a share of each dimension's range. 1 leaves all changes alone."""

    def __post_init__(self) -> None:
        if not 0 < self.max_change <= 1:
            raise ValueError(f"max_change is {self.max_change}, must lie in 0..1, above 0")

    def rest(self) -> FloatArray:
        """Return the action that asks for nothing, float32 (A,): 0 where the bounds hold it, else the nearer bound."""
        return np.clip(np.zeros(self.spec.size, np.float32), self.spec.low, self.spec.high)

    def apply(self, action: FloatArray, previous: FloatArray) -> FloatArray:
        """Return the nearest action that the limits allow.

        Args:
            action: float32 (A,), physical units.
            previous: the action carried out before, float32 (A,), :meth:`rest` at the start of an episode.

        Returns:
            float32 (A,), within the bounds. A choice (a discrete dimension) is not changed.

        Raises:
            ValueError: another shape, or a value that is not a number.
        """
        self.spec.out_of_bounds(action)  # checks shape and numbers
        limit = np.float32(self.max_change) * (self.spec.high - self.spec.low)
        near = np.clip(action, previous - limit, previous + limit) if self.max_change < 1 else action
        allowed = np.clip(near, self.spec.low, self.spec.high)
        return np.where(self.spec.discrete_choices > 0, action, allowed).astype(np.float32)


class Watchdog:
    """Stops a robot whose next action does not come in time.

    Every action goes through :meth:`command`. When the next one is late, a thread calls ``stop`` once, even while the
    control loop hangs in a call. Every action after that is refused until :meth:`start`. One lock covers both.
    """

    def __init__(self, command: Callable[[FloatArray], None], stop: Callable[[], None], *, seconds: float) -> None:
        """Watch from the first :meth:`start` on.

        Args:
            command: carries an action out and returns soon.
            stop: brings the robot to rest. It must be safe to call from another thread, and at any time.
            seconds: longest time from one action, or from the start, to the next.
        """
        if not 0 < seconds < math.inf:
            raise ValueError(f"the watchdog's time is {seconds} s, must be above 0 and finite")
        self._command, self._stop, self._seconds = command, stop, seconds
        self._deadline = math.inf
        self._stopped, self._closed = True, False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._watch, name="rt1-watchdog", daemon=True)
        self._thread.start()

    @property
    def stopped(self) -> bool:
        """True before :meth:`start` and after a stop."""
        return self._stopped

    def start(self) -> None:
        """Take actions, again after a stop. The time runs from now.

        A watchdog that was closed, or whose ``stop`` failed, raises ``StoppedError``.
        """
        with self._changed:
            if not self._thread.is_alive():
                raise StoppedError("the watchdog has ended. Make a new watchdog")
            self._stopped = False
            self._rearm()

    def command(self, action: FloatArray) -> None:
        """Carry an action out and wait for the next one from now on.

        An action that is too late, or before the start, raises ``StoppedError`` and is not carried out.
        """
        with self._changed:
            if self._stopped or time.monotonic() >= self._deadline:
                raise StoppedError(
                    f"the action came more than {self._seconds:g} s after the last one and was not carried out. Call "
                    "start() to continue"
                )
            self._command(action)
            self._rearm()

    def stop(self) -> None:
        """Stop the robot now, unless it has been stopped already."""
        with self._changed:
            self._stop_once()

    def close(self) -> None:
        with self._changed:
            self._stop_once()
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def __enter__(self) -> Watchdog:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _rearm(self) -> None:
        self._deadline = time.monotonic() + self._seconds
        self._changed.notify()

    def _stop_once(self) -> None:
        if not self._stopped:
            self._stopped, self._deadline = True, math.inf
            self._stop()

    def _watch(self) -> None:
        with self._changed:
            while not self._closed:
                rest = self._deadline - time.monotonic()
                if rest > 0:
                    self._changed.wait(None if rest == math.inf else rest)
                else:
                    self._stop_once()
