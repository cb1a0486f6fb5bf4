"""Signals that ask a process to end."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator

import pytest

from rt1.common.signals import stop_on_signals, stop_signals


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
