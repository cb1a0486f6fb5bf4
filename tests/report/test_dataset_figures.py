"""The figures show every value, on its side of the bounds."""

from __future__ import annotations

import numpy as np
import pytest

from rt1.report.dataset_figures import action_histogram, episode_trace, length_histogram
from rt1.report.svg import COLORS

pytest.importorskip("matplotlib")


def _values(*values: float) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    return np.array(values, dtype=np.float32)


def _bars(svg: str, color: str) -> int:
    return svg.count(f"fill: {COLORS[color]}")


def test_a_value_at_a_bound_lies_within_and_the_next_one_outside() -> None:
    low, high = float(np.float32(-0.3)), float(np.float32(0.7))
    within = action_histogram("x", _values(low, high, 0.1), low=low, high=high)
    assert (_bars(within, "policy"), _bars(within, "swapped")) == (3, 0)
    beyond = np.nextafter(_values(low, high), _values(-9, 9))
    outside = action_histogram("x", beyond, low=low, high=high)
    assert (_bars(outside, "policy"), _bars(outside, "swapped")) == (0, 2)


def test_values_very_far_out_share_the_outermost_bar() -> None:
    svg = action_histogram("x", _values(0, 1e6, 3e6, -1e9), low=-1, high=1)
    assert (_bars(svg, "policy"), _bars(svg, "swapped")) == (1, 2)


def test_each_choice_has_its_bar_and_what_is_none_stands_outside() -> None:
    svg = action_histogram("end", _values(0, 0, 1, 2, -1), low=0, high=2, choices=3)
    assert (_bars(svg, "policy"), _bars(svg, "swapped")) == (3, 1)
    assert 'aria-label="end: share of the steps by value"' in svg


def test_one_value_among_a_hundred_thousand_can_be_seen() -> None:
    svg = action_histogram("x", np.append(np.zeros(100_000, np.float32), np.float32(5)), low=-1, high=1)
    assert _bars(svg, "swapped") == 1


@pytest.mark.parametrize("lengths", [[7], [3, 4, 4], [1, 2, 3, 5000]])
def test_lengths_are_drawn_whatever_they_are(lengths: list[int]) -> None:
    svg = length_histogram(np.array(lengths, dtype=np.int64))
    assert _bars(svg, "policy") == len(set(lengths)) if max(lengths) < 100 else 2
    assert "steps" in svg


def test_the_actions_of_an_episode_have_a_dot_at_each_image() -> None:
    svg = episode_trace("x", _values(0, 1, 0, 1, 0), low=-1, high=1, steps=(0, 4))
    assert svg.count("<use ") >= 2
    assert ">step<" in svg
