"""What a server counts of itself, as the text that Prometheus reads."""

from __future__ import annotations

from bisect import bisect_left

LATENCY_BOUNDS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
"""Upper bounds of the histogram of latencies, seconds."""


class Counters:
    """Counts of one server since its start; used from its event loop only."""

    def __init__(self) -> None:
        self.sessions = 0
        """Connections now."""
        self.sessions_started = 0
        self.sessions_refused = 0
        self.errors = 0
        """Requests answered with an error."""
        self._buckets = [0] * (len(LATENCY_BOUNDS) + 1)
        self._seconds = 0.0

    @property
    def requests(self) -> int:
        """Requests answered with an action or a reset."""
        return sum(self._buckets)

    def answered(self, seconds: float) -> None:
        """Count a request that took this long from its last byte to its reply."""
        self._buckets[bisect_left(LATENCY_BOUNDS, seconds)] += 1
        self._seconds += seconds

    def text(self) -> str:
        """Return all counts in Prometheus' text format 0.0.4."""
        lines = [
            "# HELP rt1_request_seconds From the whole request to its reply.",
            "# TYPE rt1_request_seconds histogram",
        ]
        total = 0
        for bound, count in zip([*map(str, LATENCY_BOUNDS), "+Inf"], self._buckets, strict=True):
            total += count
            lines.append(f'rt1_request_seconds_bucket{{le="{bound}"}} {total}')
        lines += [f"rt1_request_seconds_sum {self._seconds}", f"rt1_request_seconds_count {total}"]
        for name, kind, words, value in (
            ("rt1_sessions", "gauge", "Connections now.", self.sessions),
            ("rt1_sessions_started_total", "counter", "Connections since the start.", self.sessions_started),
            ("rt1_sessions_refused_total", "counter", "Connections refused.", self.sessions_refused),
            ("rt1_errors_total", "counter", "Requests answered with an error.", self.errors),
        ):
            lines += [f"# HELP {name} {words}", f"# TYPE {name} {kind}", f"{name} {value}"]
        return "\n".join(lines) + "\n"
