"""What a server counts of itself, as the text that Prometheus reads."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Collection, Mapping, Sequence

LATENCY_BOUNDS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
"""Upper bounds of the histograms of times, seconds."""
BATCH_BOUNDS = (1, 2, 4, 8, 16, 32, 64, 128)
"""Upper bounds of the histogram of batch sizes, robots."""


_RECENT_BEATS = 6000
"""Beats of the event loop that the quantiles are of: a minute."""


class Histogram:
    """Counts of values up to each bound, as Prometheus has them."""

    def __init__(self, bounds: Sequence[float]) -> None:
        """Start empty; ``bounds`` rise, and one without end is added."""
        self._bounds = bounds
        self._buckets = [0] * (len(bounds) + 1)
        self._sum = 0.0

    @property
    def count(self) -> int:
        """Values so far."""
        return sum(self._buckets)

    def add(self, value: float) -> None:
        """Count a value."""
        self._buckets[bisect_left(self._bounds, value)] += 1
        self._sum += value

    def lines(self, name: str, words: str) -> list[str]:
        """Return its lines in Prometheus' text format."""
        lines = [f"# HELP {name} {words}", f"# TYPE {name} histogram"]
        total = 0
        for bound, count in zip([*map(str, self._bounds), "+Inf"], self._buckets, strict=True):
            total += count
            lines.append(f'{name}_bucket{{le="{bound}"}} {total}')
        return [*lines, f"{name}_sum {self._sum}", f"{name}_count {total}"]


class Counters:
    """Counts of one server since its start; used from its event loop only."""

    def __init__(self) -> None:
        self.sessions = 0
        """Connections now."""
        self.active_sessions = 0
        """Connections with a request in the last minute."""
        self.held_bytes = 0
        """Bytes that all connections hold."""
        self.sessions_started = 0
        self.refused: Counter[str] = Counter({"key": 0, "full": 0, "busy": 0, "stopping": 0})
        """Connections refused, by the reason."""
        self.errors: Counter[str] = Counter({"request": 0, "server": 0})
        """Requests answered with an error, by whose fault it was."""
        self.capacity = 0
        """Sessions that the machine carries, as last measured."""
        self.latency = Histogram(LATENCY_BOUNDS)
        """Seconds of the requests answered with an action or a reset, from the last byte to the reply."""
        self.step_seconds = Histogram(LATENCY_BOUNDS)
        """Seconds of the network's batches."""
        self.batch_size = Histogram(BATCH_BOUNDS)
        """Robots in each batch."""
        self.loop_stalls: deque[float] = deque(maxlen=_RECENT_BEATS)
        """Seconds that the event loop was late for each of the last beats."""

    def stepped(self, robots: int, seconds: float) -> None:
        """Count a batch."""
        self.batch_size.add(robots)
        self.step_seconds.add(seconds)

    def text(self) -> str:
        """Return all counts in Prometheus' text format 0.0.4."""
        lines = [
            *self.latency.lines("rt1_request_seconds", "From the whole request to its reply."),
            *self.step_seconds.lines("rt1_step_seconds", "The network's time for one batch."),
            *self.batch_size.lines("rt1_batch_size", "Robots whose steps the network took together."),
        ]
        for name, kind, words, value in (
            ("rt1_sessions", "gauge", "Connections now.", self.sessions),
            ("rt1_active_sessions", "gauge", "Connections with a request in the last minute.", self.active_sessions),
            ("rt1_held_bytes", "gauge", "Bytes received and not yet answered, or to be sent.", self.held_bytes),
            ("rt1_capacity_sessions", "gauge", "Connections that the machine carries now.", self.capacity),
            ("rt1_sessions_started_total", "counter", "Connections since the start.", self.sessions_started),
        ):
            lines += [f"# HELP {name} {words}", f"# TYPE {name} {kind}", f"{name} {value}"]
        lines += _labelled("rt1_sessions_refused_total", "Connections refused.", "reason", self.refused)
        lines += _labelled("rt1_errors_total", "Requests answered with an error.", "fault", self.errors)
        lines += _quantiles(
            "rt1_loop_stall_seconds", "How late the event loop was in the last minute.", self.loop_stalls
        )
        return "\n".join(lines) + "\n"


def _labelled(name: str, words: str, label: str, counts: Mapping[str, int]) -> list[str]:
    head = [f"# HELP {name} {words}", f"# TYPE {name} counter"]
    return head + [f'{name}{{{label}="{value}"}} {count}' for value, count in counts.items()]


def _quantiles(name: str, words: str, values: Collection[float]) -> list[str]:
    ordered = sorted(values) or [0.0]
    return [f"# HELP {name} {words}", f"# TYPE {name} gauge"] + [
        f'{name}{{quantile="{quantile:g}"}} {ordered[int(quantile * (len(ordered) - 1))]:.6f}'
        for quantile in (0.5, 0.99, 1.0)
    ]
