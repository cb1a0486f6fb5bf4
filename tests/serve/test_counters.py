"""The counts of a server as Prometheus reads them."""

from __future__ import annotations

import asyncio
import time

import pytest

from rt1.serve.counters import PERIOD, Counters


def test_the_histogram_adds_up_from_bound_to_bound() -> None:
    counters = Counters()
    for value in (0.004, 0.005, 0.3, 60.0):
        counters.latency.observe(value)
    lines = counters.text().decode().splitlines()
    assert "# TYPE rt1_request_seconds histogram" in lines
    for bound, count in (("0.005", 2.0), ("0.5", 3.0), ("+Inf", 4.0)):
        assert f'rt1_request_seconds_bucket{{le="{bound}"}} {count}' in lines
    assert counters.registry.get_sample_value("rt1_request_seconds_count") == 4
    assert counters.registry.get_sample_value("rt1_request_seconds_sum") == pytest.approx(60.309)


def test_a_batch_counts_its_robots_and_its_time() -> None:
    counters = Counters()
    counters.stepped(3, 0.25)
    counters.stepped(1, 0.5)
    lines = counters.text().decode().splitlines()
    assert 'rt1_batch_size_bucket{le="1.0"} 1.0' in lines
    assert 'rt1_batch_size_bucket{le="4.0"} 2.0' in lines
    assert "rt1_step_seconds_sum 0.75" in lines


def test_errors_and_refusals_are_told_apart() -> None:
    counters = Counters()
    counters.errors.labels("server").inc()
    counters.refused.labels("busy").inc(2)
    lines = counters.text().decode().splitlines()
    assert 'rt1_errors_total{fault="server"} 1.0' in lines
    assert 'rt1_errors_total{fault="request"} 0.0' in lines
    assert 'rt1_sessions_refused_total{reason="busy"} 2.0' in lines


def test_the_stalls_of_the_event_loop_are_quantiles() -> None:
    counters = Counters()
    counters.loop_stalls.extend([0.001] * 98 + [0.5, 1.0])
    lines = counters.text().decode().splitlines()
    assert 'rt1_loop_stall_seconds{quantile="0.5"} 0.001' in lines
    assert 'rt1_loop_stall_seconds{quantile="0.99"} 0.5' in lines
    assert 'rt1_loop_stall_seconds{quantile="1"} 1.0' in lines


def _beats(block: float) -> list[float]:
    counters = Counters()

    async def run() -> None:
        task = asyncio.create_task(counters.watch_loop())
        await asyncio.sleep(3 * PERIOD)
        time.sleep(block)
        await asyncio.sleep(PERIOD)
        task.cancel()

    asyncio.run(run())
    return list(counters.loop_stalls)


def test_a_loop_that_is_held_up_is_late_for_each_beat_it_missed() -> None:
    late = _beats(0.2)
    assert max(late) > 0.2 - 2 * PERIOD
    assert sum(seconds > 0.1 for seconds in late) >= 8


def test_beats_are_never_early() -> None:
    late = _beats(0.0)
    assert len(late) >= 3
    assert min(late) >= 0.0
