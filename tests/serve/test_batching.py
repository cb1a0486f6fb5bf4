"""Batches: who waits goes together, first come, first served; one alone never waits; nobody suffers for another."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from rt1.actions import ActionSpec, Continuous, FloatArray, rt1_action_spec
from rt1.errors import ClientDisconnectedError, PolicyError
from rt1.model.rt1 import RT1
from rt1.policy.policy import Policy
from rt1.policy.stepper import EpisodeState
from rt1.serve.batching import Batcher, Capacity, StepReply, measured_times

Images = NDArray[np.uint8]
FREE = {1: 1.0, 2: 1.0, 4: 1.0}
"""Seconds of batches on a machine where others cost nothing: only ``max_wait`` bounds the waiting for them."""
DEAR = {1: 1.0, 2: 2.5, 4: 5.0}
"""Seconds of batches on a machine where a batch takes longer than its robots one by one."""
HOUR = 3600.0
SPEC = ActionSpec(parts=(Continuous(name="move", low=(-1.0,) * 3, high=(1.0,) * 3),), bins=1 << 16)
Script = Callable[[Batcher], Coroutine[Any, Any, None]]


def _run(stepper: Any, script: Script, *, times: dict[int, float] = FREE, max_wait: float = HOUR) -> None:
    async def main() -> None:
        with ThreadPoolExecutor(1) as worker:
            capacity = Capacity(times, max_latency=HOUR)
            batcher = Batcher(Policy(stepper, SPEC), capacity, worker, max_wait=max_wait, on_batch=lambda *_: None)
            running = asyncio.create_task(batcher.run())
            async with asyncio.timeout(30):
                await script(batcher)
            running.cancel()

    asyncio.run(main())


def _state(stepper: Any, seed: int = 0) -> EpisodeState:
    return stepper.start(np.random.default_rng(seed).normal(size=8).astype(np.float32))


def _action(stepper: Any, state: EpisodeState, image: Images) -> FloatArray:
    return SPEC.decode_logits(stepper.step([state], [image])[0])[1]


def test_one_robot_alone_never_waits_for_other_robots(blocked: Any, images: Images) -> None:
    async def script(batcher: Batcher) -> None:
        state = _state(blocked)
        for image in images:
            state = (await batcher.step("one", state, image)).state

    _run(blocked, script)
    assert blocked.sizes == [1] * 5


def test_robots_that_ask_at_once_go_together_and_get_what_each_gets_alone(blocked: Any, images: Images) -> None:
    states = [_state(blocked, seed) for seed in range(4)]
    alone = [_action(blocked, replace(state), images[0]) for state in states]
    blocked.sizes.clear()

    async def script(batcher: Batcher) -> None:
        steps = await asyncio.gather(*(batcher.step(seed, states[seed], images[0]) for seed in range(4)))
        for step, action, state in zip(steps, alone, states, strict=True):
            np.testing.assert_allclose(step.action, action, atol=1e-4)  # a few of 65,536 bins: batches round otherwise
            assert (state.images, step.state.images) == (0, 1)

    _run(blocked, script)
    assert blocked.sizes == [4]
    assert len({tuple(action) for action in alone}) == 4


def test_a_step_waits_for_another_robot_that_is_active_but_not_forever(blocked: Any, images: Images) -> None:
    async def script(batcher: Batcher) -> None:
        both = (batcher.step(robot, _state(blocked), images[0]) for robot in "ab")
        await asyncio.gather(*both)
        await batcher.step("a", _state(blocked), images[1])  # "b" is awake and stays away

    _run(blocked, script, max_wait=0.02)
    assert blocked.sizes == [2, 1]


def test_nobody_waits_where_a_batch_saves_nothing(blocked: Any, images: Images) -> None:
    async def script(batcher: Batcher) -> None:
        both = (batcher.step(robot, _state(blocked), images[0]) for robot in "ab")
        await asyncio.gather(*both)
        await batcher.step("a", _state(blocked), images[1])

    _run(blocked, script, times=DEAR)
    assert blocked.sizes == [2, 1]


def test_beyond_the_largest_batch_who_came_first_goes_first(blocked: Any, images: Images) -> None:
    order: list[int] = []

    async def script(batcher: Batcher) -> None:
        async def ask(robot: int) -> None:
            await batcher.step(robot, _state(blocked), images[0])
            order.append(robot)

        await asyncio.gather(*map(ask, range(6)))

    _run(blocked, script, max_wait=0.02)
    assert blocked.sizes == [4, 2]
    assert order == list(range(6))


def test_a_batch_that_fails_is_taken_robot_by_robot(blocked: Any, images: Images) -> None:
    blocked.fails_at = images[1]

    async def script(batcher: Batcher) -> None:
        states = [_state(blocked, seed) for seed in range(3)]
        asked = (batcher.step(seed, states[seed], images[seed]) for seed in range(3))
        first, second, third = await asyncio.gather(*asked, return_exceptions=True)
        assert str(second) == "the accelerator is on fire"
        for step, state, image in ((first, states[0], images[0]), (third, states[2], images[2])):
            assert isinstance(step, StepReply)
            assert step.state.images == 1  # the image has not come to it twice
            np.testing.assert_array_equal(step.action, _action(blocked, state, image))

    _run(blocked, script)
    assert blocked.sizes[:4] == [3, 1, 1, 1]


def test_logits_that_are_not_finite_fail_one_robot_and_no_other(blocked: Any, images: Images) -> None:
    blocked.no_numbers_at = images[1]

    async def script(batcher: Batcher) -> None:
        asked = (batcher.step(seed, _state(blocked, seed), images[seed]) for seed in range(3))
        first, second, third = await asyncio.gather(*asked, return_exceptions=True)
        assert isinstance(second, PolicyError)
        assert isinstance(first, StepReply)
        assert isinstance(third, StepReply)

    _run(blocked, script)
    assert blocked.sizes == [3]  # nobody's step is taken twice


def test_the_step_of_a_robot_that_has_gone_is_left_out(blocked: Any, images: Images) -> None:
    async def script(batcher: Batcher) -> None:
        asked = (
            batcher.step(robot, _state(blocked), images[0], is_wanted=partial(bool, robot == "here"))
            for robot in ("gone", "here")
        )
        gone, here = await asyncio.gather(*asked, return_exceptions=True)
        assert isinstance(gone, ClientDisconnectedError)
        assert isinstance(here, StepReply)

    _run(blocked, script)
    assert blocked.sizes == [1]


def test_a_request_that_is_given_up_disturbs_nobody(blocked: Any, images: Images) -> None:
    async def script(batcher: Batcher) -> None:
        given_up = asyncio.ensure_future(batcher.step("a", _state(blocked), images[0]))
        await asyncio.sleep(0)
        given_up.cancel()
        assert isinstance(await batcher.step("b", _state(blocked), images[1]), StepReply)
        assert given_up.cancelled()

    _run(blocked, script, max_wait=0.02)


def test_the_queue_says_how_long_its_first_has_waited(blocked: Any, images: Images) -> None:
    async def script(batcher: Batcher) -> None:
        assert batcher.oldest_wait() == 0.0
        waiting = asyncio.ensure_future(batcher.step("a", _state(blocked), images[0]))
        await asyncio.sleep(0)
        assert batcher.waiting == 1
        assert batcher.oldest_wait() > 0.0
        await waiting
        assert batcher.waiting == 0

    _run(blocked, script)


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
