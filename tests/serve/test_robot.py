"""Rate, limits and watchdog: an action is never too far, never too soon, and never after a stop."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest

from rt1.actions import ActionSpec, Continuous, Discrete, FloatArray
from rt1.errors import StoppedError
from rt1.serve.robot import ActionLimits, Rate, Watchdog

SPEC = ActionSpec(
    parts=(
        Continuous(name="move", low=(-1.0, -2.0), high=(1.0, 2.0)),
        Continuous(name="height", low=(0.5,), high=(1.5,)),
        Discrete(name="end", choices=3),
    ),
    bins=16,
)
HOUR = 3600.0


class Clock:
    """A clock of one's own for the module: sleeping moves it."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("rt1.serve.robot.time", clock)
    return clock


def _action(*values: float) -> FloatArray:
    return np.array(values, dtype=np.float32)


def test_ticks_lie_on_a_grid_whatever_the_work_between_them_takes(clock: Clock) -> None:
    rate, ticks = Rate(4.0), []
    for work in (0.0, 0.2, 0.1, 0.24):
        clock.now += work
        assert rate.wait() == 0.0
        ticks.append(clock.now)
    np.testing.assert_allclose(ticks, [100.25, 100.5, 100.75, 101.0])


def test_after_a_late_tick_the_next_one_is_a_whole_period_later(clock: Clock) -> None:
    rate = Rate(4.0)
    clock.now += 1.05
    assert rate.wait() == pytest.approx(0.8)
    assert clock.now == pytest.approx(101.05)  # at once, and no burst of the ticks left out
    assert rate.wait() == 0.0
    assert clock.now == pytest.approx(101.3)


@pytest.mark.parametrize("hertz", [0.0, -1.0, float("inf"), float("nan")])
def test_a_rate_must_be_one(hertz: float) -> None:
    with pytest.raises(ValueError, match="must be above 0 and finite"):
        Rate(hertz)


def test_values_are_clipped_to_the_bounds_of_the_spec() -> None:
    allowed = ActionLimits(spec=SPEC).apply(_action(-5.0, 1.5, 9.0, 2.0), _action(1.0, -2.0, 0.5, 0.0))
    np.testing.assert_array_equal(allowed, _action(-1.0, 1.5, 1.5, 2.0))


def test_a_value_changes_by_at_most_its_share_of_the_range_and_a_choice_at_once() -> None:
    limits = ActionLimits(spec=SPEC, max_change=0.25)
    previous = limits.rest()
    np.testing.assert_array_equal(previous, _action(0.0, 0.0, 0.5, 0.0))
    wanted = _action(1.0, -2.0, 0.6, 2.0)
    first = limits.apply(wanted, previous)
    np.testing.assert_allclose(first, _action(0.5, -1.0, 0.6, 2.0))
    np.testing.assert_allclose(limits.apply(wanted, first), wanted)


@pytest.mark.parametrize(("values", "message"), [((0.0, np.nan, 1.0, 0.0), "is NaN"), ((0.0, 1.0), "must be 4")])
def test_what_is_no_action_is_refused(values: tuple[float, ...], message: str) -> None:
    limits = ActionLimits(spec=SPEC)
    with pytest.raises(ValueError, match=message):
        limits.apply(_action(*values), limits.rest())


@pytest.mark.parametrize("share", [0.0, 1.5, float("nan")])
def test_the_largest_change_is_a_share(share: float) -> None:
    with pytest.raises(ValueError, match=r"must lie in 0..1, above 0"):
        ActionLimits(spec=SPEC, max_change=share)


class Arm:
    """A robot that writes down what it is told."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.has_stopped = threading.Event()

    def command(self, action: FloatArray) -> None:
        self.told.append(f"move {action[0]:g}")

    def stop(self) -> None:
        self.told.append("stop")
        self.has_stopped.set()


@pytest.fixture
def arm() -> Arm:
    return Arm()


@pytest.fixture
def patient(arm: Arm) -> Iterator[Watchdog]:
    with Watchdog(arm.command, arm.stop, seconds=HOUR) as watchdog:
        yield watchdog


def test_a_late_action_finds_the_robot_stopped_and_is_not_carried_out(arm: Arm) -> None:
    with Watchdog(arm.command, arm.stop, seconds=0.02) as watchdog:
        watchdog.start()
        assert arm.has_stopped.wait(timeout=20)  # nobody called anything: the thread did it
        with pytest.raises(StoppedError, match="was not carried out"):
            watchdog.command(_action(1.0))
        assert watchdog.stopped
    assert arm.told == ["stop"]


def test_a_stopped_robot_goes_on_only_when_told_to_start(arm: Arm, patient: Watchdog) -> None:
    with pytest.raises(StoppedError):
        patient.command(_action(0.0))
    patient.start()
    patient.command(_action(1.0))
    patient.stop()
    patient.stop()
    with pytest.raises(StoppedError):
        patient.command(_action(2.0))
    patient.start()
    patient.command(_action(3.0))
    assert arm.told == ["move 1", "stop", "move 3"]


def test_an_action_that_is_late_is_refused_even_before_the_thread_has_noticed(
    arm: Arm, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Watchdog(arm.command, arm.stop, seconds=HOUR) as watchdog:
        watchdog.start()
        later = time.monotonic() + 2 * HOUR
        with monkeypatch.context() as patch:
            patch.setattr("rt1.serve.robot.time.monotonic", lambda: later)
            with pytest.raises(StoppedError):
                watchdog.command(_action(1.0))
        assert arm.told == []


def test_leaving_the_watch_stops_the_robot_also_after_an_error(arm: Arm) -> None:
    def fall_over() -> None:
        with Watchdog(arm.command, arm.stop, seconds=HOUR) as watchdog:
            watchdog.start()
            watchdog.command(_action(1.0))
            raise KeyError("the loop's own mistake")

    with pytest.raises(KeyError):
        fall_over()
    assert arm.told == ["move 1", "stop"]


def test_without_a_watch_nothing_starts(arm: Arm) -> None:
    with Watchdog(arm.command, arm.stop, seconds=HOUR) as watchdog:
        pass
    with pytest.raises(StoppedError, match="Make a new watchdog"):
        watchdog.start()
    assert arm.told == []


@pytest.mark.parametrize("seconds", [0.0, float("nan"), float("inf")])
def test_a_watchdog_needs_a_time(arm: Arm, seconds: float) -> None:
    with pytest.raises(ValueError, match="must be above 0 and finite"):
        Watchdog(arm.command, arm.stop, seconds=seconds)
