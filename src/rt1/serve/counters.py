"""What a server counts of itself, as the text that Prometheus reads."""

from __future__ import annotations

from collections import deque

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

LATENCY_BOUNDS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
"""Upper bounds of the histograms of times, seconds."""
BATCH_BOUNDS = (1, 2, 4, 8, 16, 32, 64, 128)
"""Upper bounds of the histogram of batch sizes, robots."""

_RECENT_BEATS = 6000
"""Beats of the event loop that the quantiles are of: a minute."""


class Counters:
    """Counts of one server since its start."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.sessions = Gauge("rt1_sessions", "Connections now.", registry=registry)
        self.active_sessions = Gauge(
            "rt1_active_sessions", "Connections with a request in the last minute.", registry=registry
        )
        self.held_bytes = Gauge(
            "rt1_held_bytes", "Bytes received and not yet answered, or to be sent.", registry=registry
        )
        self.capacity = Gauge("rt1_capacity_sessions", "Connections that the machine carries now.", registry=registry)
        self.sessions_started = Counter("rt1_sessions_started", "Connections since the start.", registry=registry)
        self.refused = Counter("rt1_sessions_refused", "Connections refused.", ["reason"], registry=registry)
        self.errors = Counter("rt1_errors", "Requests answered with an error.", ["fault"], registry=registry)
        self.latency = Histogram(
            "rt1_request_seconds", "From the whole request to its reply.", buckets=LATENCY_BOUNDS, registry=registry
        )
        self.step_seconds = Histogram(
            "rt1_step_seconds", "The network's time for one batch.", buckets=LATENCY_BOUNDS, registry=registry
        )
        self.batch_size = Histogram(
            "rt1_batch_size", "Robots whose steps the network took together.", buckets=BATCH_BOUNDS, registry=registry
        )
        self._stalls = Gauge(
            "rt1_loop_stall_seconds", "How late the event loop was in the last minute.", ["quantile"], registry=registry
        )
        self.loop_stalls: deque[float] = deque(maxlen=_RECENT_BEATS)
        """Seconds that the event loop was late for each of the last beats."""
        for reason in ("key", "full", "busy", "stopping"):
            self.refused.labels(reason)
        for fault in ("request", "server"):
            self.errors.labels(fault)

    def stepped(self, robots: int, seconds: float) -> None:
        self.batch_size.observe(robots)
        self.step_seconds.observe(seconds)

    def text(self) -> bytes:
        """Return all counts in Prometheus' text format 0.0.4."""
        stalls = sorted(self.loop_stalls) or [0.0]
        for quantile in (0.5, 0.99, 1.0):
            self._stalls.labels(f"{quantile:g}").set(stalls[int(quantile * (len(stalls) - 1))])
        return generate_latest(self.registry)
