"""The counts of a server as Prometheus reads them."""

from __future__ import annotations

from rt1.serve.counters import Counters


def test_the_histogram_adds_up_from_bound_to_bound() -> None:
    counters = Counters()
    for seconds in (0.001, 0.005, 0.15, 60.0):
        counters.answered(seconds)
    lines = counters.text().splitlines()
    assert 'rt1_request_seconds_bucket{le="0.005"} 2' in lines
    assert 'rt1_request_seconds_bucket{le="0.1"} 2' in lines
    assert 'rt1_request_seconds_bucket{le="0.2"} 3' in lines
    assert 'rt1_request_seconds_bucket{le="5.0"} 3' in lines
    assert 'rt1_request_seconds_bucket{le="+Inf"} 4' in lines
    assert "rt1_request_seconds_count 4" in lines
    assert counters.requests == 4


def test_every_line_is_a_comment_or_a_name_and_a_number() -> None:
    text = Counters().text()
    assert text.endswith("\n")
    for line in text.splitlines():
        assert line.startswith("# ") or float(line.rpartition(" ")[2]) >= 0
