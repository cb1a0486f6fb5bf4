"""What a meter gives: means, and speeds of the updates alone."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from rt1.train.meter import Meter


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock that shows what stands in the list; asking for the memory in use takes 5 s of it."""
    shown, measure = [100.0], resource.getrusage

    def slow(who: int) -> resource.struct_rusage:
        shown[0] += 5.0
        return measure(who)

    monkeypatch.setattr("rt1.train.meter.time", SimpleNamespace(monotonic=lambda: shown[0]))
    monkeypatch.setattr(resource, "getrusage", slow)
    return shown


def _update(own: Meter, clock: list[float], *, loss: float, seconds: float) -> None:
    own.add({"loss": loss})
    own.count(windows=4, images=8)
    clock[0] += seconds


def test_the_means_are_those_since_the_last_record(clock: list[float]) -> None:
    own = Meter()
    _update(own, clock, loss=1.0, seconds=1.0)
    _update(own, clock, loss=3.0, seconds=1.0)
    values = own.take()
    assert (values["loss"], values["windows_per_second"], values["images_per_second"]) == (2.0, 4.0, 8.0)
    assert values["memory_gb"] > 0.01
    _update(own, clock, loss=5.0, seconds=1.0)
    assert own.take()["loss"] == 5.0


def test_a_pause_is_no_time_of_the_updates_wherever_in_it_the_record_is_taken(clock: list[float]) -> None:
    own = Meter()
    for _ in range(3):
        _update(own, clock, loss=1.0, seconds=2.0)
        with own.paused():
            clock[0] += 3.0
            assert own.take()["windows_per_second"] == 2.0
            clock[0] += 60.0
            assert own.state_dict()["seconds"] == 0.0


def test_waiting_for_batches_is_a_share_of_the_time(clock: list[float]) -> None:
    own = Meter()

    def batches() -> Iterator[int]:
        for number in range(2):
            clock[0] += 1.0
            yield number

    for _ in own.waiting(batches()):
        _update(own, clock, loss=1.0, seconds=3.0)
    assert own.take()["data_wait"] == 0.25


def test_an_interrupted_meter_goes_on_where_it_was(clock: list[float]) -> None:
    own = Meter()
    _update(own, clock, loss=1.0, seconds=2.0)
    state = own.state_dict()
    clock[0] += 1000.0
    other = Meter()
    other.load_state_dict(state)
    _update(other, clock, loss=2.0, seconds=2.0)
    values = other.take()
    assert (values["loss"], values["windows_per_second"]) == (1.5, 2.0)
