"""Signals that ask a process to end: an event for servers, a list for training."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType


def stop_signals() -> list[signal.Signals]:
    """Return the signals that ask this process to end: SIGTERM, and Ctrl-C and SIGHUP unless they are ignored.

    ``nohup`` starts a process that ignores SIGHUP, and a script's ``&`` one that ignores SIGINT: they are to go on.
    """
    others = [getattr(signal, name) for name in ("SIGINT", "SIGHUP") if hasattr(signal, name)]  # Windows has no SIGHUP
    return [signal.SIGTERM, *(number for number in others if signal.getsignal(number) is not signal.SIG_IGN)]


def stop_on_signals() -> asyncio.Event:
    """Return an event that :func:`stop_signals` set. Call it in the main thread, from within the loop that waits."""
    stop = asyncio.Event()
    with suppress(NotImplementedError):  # Windows has no signals for event loops; Ctrl-C still ends it
        for number in stop_signals():
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
    return stop


@contextmanager
def stop_on_signal() -> Iterator[list[int]]:
    """Yield the list of signals received so far. While it is empty, nobody asked to stop.

    Raises:
        KeyboardInterrupt: on a second signal, if one of them is Ctrl-C. Several SIGTERM count as one: SLURM sends it to
            every process, and torchrun sends it once more to its ranks.
    """
    received: list[int] = []

    def note(number: int, _frame: FrameType | None) -> None:
        if received and signal.SIGINT in (number, *received):
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
