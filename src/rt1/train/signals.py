"""Ctrl-C, SIGTERM and SIGHUP as a request to stop after the current update."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from rt1.common.signals import stop_signals


@contextmanager
def stop_on_signal() -> Iterator[list[int]]:
    """Yield the list of signals received so far; while it is empty, nobody asked to stop. A second one stops at once.

    Raises:
        KeyboardInterrupt: on the second signal.
    """
    received: list[int] = []

    def note(number: int, _frame: FrameType | None) -> None:
        if received:
            raise KeyboardInterrupt
        received.append(number)

    # Python lets only the main thread handle signals; a run in another thread is stopped by its owner.
    numbers = stop_signals() if threading.current_thread() is threading.main_thread() else []
    previous = {number: signal.signal(number, note) for number in numbers}
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
