"""How many robots a machine carries: from times measured once, and how slow it is now."""

from __future__ import annotations

import numpy as np
import pytest

from rt1.actions import rt1_action_spec
from rt1.model.rt1 import RT1
from rt1.policy.policy import Policy
from rt1.serve.capacity import Capacity, measured_times

GPU_LIKE = {1: 0.010, 2: 0.011, 4: 0.012, 8: 0.014}
CPU_LIKE = {1: 0.1, 2: 0.2, 4: 0.4}


def test_robots_beyond_the_largest_batch_take_further_rounds() -> None:
    capacity = Capacity(GPU_LIKE, max_latency=1.0)
    assert capacity.max_batch == 8
    np.testing.assert_allclose(
        [capacity.seconds(robots) for robots in (1, 3, 8, 9, 16, 18)], [0.010, 0.0115, 0.014, 0.024, 0.028, 0.039]
    )


@pytest.mark.parametrize(
    ("times", "latency", "carried"),
    [(CPU_LIKE, 0.35, 3), (CPU_LIKE, 0.05, 1), (CPU_LIKE, 100.0, 64), (GPU_LIKE, 0.0285, 16)],
)
def test_as_many_are_carried_as_get_their_answers_in_time(
    times: dict[int, float], latency: float, carried: int
) -> None:
    capacity = Capacity(times, max_latency=latency)
    assert capacity.sessions(64) == carried
    assert [capacity.carries(robots) for robots in (carried, carried + 1)] == [True, carried == 64]


def test_a_machine_that_has_become_slower_carries_fewer_and_one_slow_step_changes_nothing() -> None:
    capacity = Capacity(CPU_LIKE, max_latency=0.45)
    capacity.learn(1, 60.0)
    capacity.learn(1, 0.1)
    assert capacity.sessions(64) == 4
    for _ in range(100):
        capacity.learn(2, 0.4)
    assert capacity.sessions(64) == 2
    for _ in range(100):
        capacity.learn(2, 0.2)
    assert capacity.sessions(64) == 4


def test_a_companion_saves_what_its_own_step_would_have_taken() -> None:
    assert Capacity(GPU_LIKE, max_latency=1.0).saving(1) == pytest.approx(0.009)
    assert Capacity(GPU_LIKE, max_latency=1.0).saving(8) == 0.0
    assert Capacity(CPU_LIKE, max_latency=1.0).saving(1) == pytest.approx(0.0)
    assert Capacity({1: 0.1, 2: 0.25}, max_latency=1.0).saving(1) < 0


def test_a_larger_batch_that_was_faster_by_chance_does_not_confuse_it() -> None:
    capacity = Capacity({1: 0.1, 2: 0.3, 4: 0.2}, max_latency=0.25)
    assert capacity.sessions(64) == 1


def test_the_sizes_measured_double_up_to_the_largest_batch(network: RT1) -> None:
    times = measured_times(Policy(network, rt1_action_spec()), max_batch=6, max_latency=60.0)
    assert list(times) == [1, 2, 4, 6]
    assert min(times.values()) > 0


def test_batches_that_take_longer_than_anybody_may_wait_are_left_out(network: RT1) -> None:
    assert list(measured_times(Policy(network, rt1_action_spec()), max_batch=6, max_latency=1e-9)) == [1]
