"""Episodes of an environment in memory: a source, from experts where there are any."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from rt1.simulate.sample import SampledEpisodes, sample_tasks
from rt1.testing import check_source


def test_episodes_of_an_expert_are_a_source(make_suite: Callable[..., Any]) -> None:
    episodes = SampledEpisodes(make_suite(), ["near"])
    check_source(episodes)
    assert episodes.has_experts
    assert len(episodes.lengths) == 8
    again = SampledEpisodes(make_suite(), ["near"])
    assert np.array_equal(again.actions(0, 0, 2), episodes.actions(0, 0, 2))


def test_a_task_without_an_expert_gets_random_actions(make_suite: Callable[..., Any]) -> None:
    episodes = SampledEpisodes(make_suite(), ["near", "far"])
    assert not episodes.has_experts
    assert {episodes.task(episode) for episode in range(8)} == {"near", "far"}


def test_the_tasks_of_the_data_are_sampled(make_suite: Callable[..., Any], make_source: Callable[..., Any]) -> None:
    suite = make_suite(task_sentences={"wave": ("wave",), "near": ("Open  the drawer",), "far": ("hop",)})
    assert sample_tasks(suite, make_source(2)) == ("near",)
    other = make_suite(task_sentences={str(number): ("hop",) for number in range(9)})
    assert sample_tasks(other, make_source(2)) == ("0", "1", "2", "3")
