"""Signals that ask a process to end."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator

import pytest

from rt1.common.signals import stop_on_signal, stop_on_signals, stop_signals


@pytest.fixture(autouse=True)
def _handlers() -> Iterator[None]:
    """Begin as a process on a terminal does, whatever started the tests."""
    numbers = (signal.SIGINT, signal.SIGHUP, signal.SIGTERM)
    before = {number: signal.signal(number, signal.default_int_handler) for number in numbers}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_server_stops_on_each_of_its_signals(number: signal.Signals) -> None:
    async def wait() -> bool:
        stop = stop_on_signals()
        signal.raise_signal(number)
        await asyncio.wait_for(stop.wait(), timeout=10)
        return True

    assert asyncio.run(wait())


def test_what_the_start_ignores_stays_ignored_and_sigterm_ends_the_process_all_the_same() -> None:
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):  # as nohup and a script's & have it, and worse
        signal.signal(number, signal.SIG_IGN)
    assert stop_signals() == [signal.SIGTERM]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_is_noted_and_ctrl_c_after_it_stops_at_once(number: signal.Signals) -> None:
    before = signal.signal(number, signal.SIG_DFL)
    try:
        with stop_on_signal() as received:
            signal.raise_signal(number)
            assert received == [number]
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(signal.SIGINT)
        assert signal.getsignal(number) is signal.SIG_DFL
    finally:
        signal.signal(number, before)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_that_a_scheduler_and_a_launcher_both_send_stops_once(number: signal.Signals) -> None:
    with stop_on_signal() as received:
        signal.raise_signal(number)
        signal.raise_signal(number)
    assert set(received) == {number}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_a_background_start_goes_on_when_the_terminal_asks_and_ends_by_sigterm(number: signal.Signals) -> None:
    before = signal.signal(number, signal.SIG_IGN)
    try:
        with stop_on_signal() as received:
            signal.raise_signal(number)
            assert received == []
            signal.raise_signal(signal.SIGTERM)
            assert received == [signal.SIGTERM]
        assert signal.getsignal(number) is signal.SIG_IGN
    finally:
        signal.signal(number, before)
