"""What a server counts of itself, as the text that Prometheus reads."""

from __future__ import annotations

import asyncio
from collections import deque
from functools import partial

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

LATENCY_BOUNDS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
"""Upper bounds of the histograms of times, seconds."""
BATCH_BOUNDS = (1, 2, 4, 8, 16, 32, 64, 128)
"""Upper bounds of the histogram of batch sizes, robots."""
PERIOD = 0.01
"""Seconds between two beats of the event loop."""
_RECENT_BEATS = 6000
"""Beats of the event loop that the quantiles are of: a minute."""


class Counters:
    """Counts of one server since its start."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        gauge, counter = partial(Gauge, registry=self.registry), partial(Counter, registry=self.registry)
        times = partial(Histogram, registry=self.registry, buckets=LATENCY_BOUNDS)
        self.sessions = gauge("rt1_sessions", "Connections now.")
        self.active_sessions = gauge("rt1_active_sessions", "Connections with a request in the last minute.")
        self.held_bytes = gauge("rt1_held_bytes", "Bytes received and not yet answered, or to be sent.")
        self.capacity = gauge("rt1_capacity_sessions", "Connections that the machine carries now.")
        self.sessions_started = counter("rt1_sessions_started", "Connections since the start.")
        self.refused = counter("rt1_sessions_refused", "Connections refused.", ["reason"])
        self.errors = counter("rt1_errors", "Requests answered with an error.", ["fault"])
        self.latency = times("rt1_request_seconds", "From the whole request to its reply.")
        self.step_seconds = times("rt1_step_seconds", "The network's time for one batch.")
        self.batch_size = times("rt1_batch_size", "Robots whose steps the network took together.", buckets=BATCH_BOUNDS)
        self._stalls = gauge("rt1_loop_stall_seconds", "How late the event loop was in the last minute.", ["quantile"])
        self.loop_stalls: deque[float] = deque(maxlen=_RECENT_BEATS)
        """Seconds that the event loop was late for each of the last beats."""
        for reason in ("key", "full", "busy", "stopping"):
            self.refused.labels(reason)
        for fault in ("request", "server"):
            self.errors.labels(fault)

    def stepped(self, robots: int, seconds: float) -> None:
        self.batch_size.observe(robots)
        self.step_seconds.observe(seconds)

    async def watch_loop(self) -> None:
        """Store for each beat how late the event loop was, until canceled: while it is late, no robot gets an answer.

        A missed beat counts as a late one, so a long stall counts for its length.
        """
        loop = asyncio.get_running_loop()
        due = loop.time() + PERIOD
        while True:
            await asyncio.sleep(due - loop.time())
            now = loop.time()
            while due <= now:
                self.loop_stalls.append(now - due)
                due += PERIOD

    def text(self) -> bytes:
        """Return all counts in Prometheus' text format 0.0.4."""
        stalls = sorted(self.loop_stalls) or [0.0]
        for quantile in (0.5, 0.99, 1.0):
            self._stalls.labels(f"{quantile:g}").set(stalls[int(quantile * (len(stalls) - 1))])
        return generate_latest(self.registry)
