"""The counts of a server as Prometheus reads them."""

from __future__ import annotations

from rt1.serve.counters import Counters, Histogram


def test_the_histogram_adds_up_from_bound_to_bound() -> None:
    histogram = Histogram((0.1, 1.0))
    for value in (0.05, 0.1, 0.5, 60.0):
        histogram.add(value)
    assert histogram.count == 4
    assert histogram.lines("t", "Some time.") == [
        "# HELP t Some time.",
        "# TYPE t histogram",
        't_bucket{le="0.1"} 2',
        't_bucket{le="1.0"} 3',
        't_bucket{le="+Inf"} 4',
        "t_sum 60.65",
        "t_count 4",
    ]


def test_a_batch_counts_its_robots_and_its_time() -> None:
    counters = Counters()
    counters.stepped(3, 0.25)
    counters.stepped(1, 0.5)
    lines = counters.text().splitlines()
    assert 'rt1_batch_size_bucket{le="1"} 1' in lines
    assert 'rt1_batch_size_bucket{le="4"} 2' in lines
    assert "rt1_step_seconds_sum 0.75" in lines


def test_errors_and_refusals_are_told_apart() -> None:
    counters = Counters()
    counters.errors["server"] += 1
    counters.refused["busy"] += 2
    lines = counters.text().splitlines()
    assert 'rt1_errors_total{fault="server"} 1' in lines
    assert 'rt1_errors_total{fault="request"} 0' in lines
    assert 'rt1_sessions_refused_total{reason="busy"} 2' in lines


def test_the_stalls_of_the_event_loop_are_quantiles() -> None:
    counters = Counters()
    counters.loop_stalls.extend([0.001] * 98 + [0.5, 1.0])
    lines = counters.text().splitlines()
    assert 'rt1_loop_stall_seconds{quantile="0.5"} 0.001000' in lines
    assert 'rt1_loop_stall_seconds{quantile="0.99"} 0.500000' in lines
    assert 'rt1_loop_stall_seconds{quantile="1"} 1.000000' in lines


def test_every_line_is_a_comment_or_a_name_and_a_number() -> None:
    text = Counters().text()
    assert text.endswith("\n")
    for line in text.splitlines():
        assert line.startswith("# ") or float(line.rpartition(" ")[2]) >= 0
