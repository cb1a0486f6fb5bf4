"""Signals that ask a server to end, as an event of its loop."""

from __future__ import annotations

import asyncio
import signal
from contextlib import suppress


def stop_on_signals() -> asyncio.Event:
    """Return an event that SIGTERM and SIGINT set; call it in the main thread, from within the loop that waits."""
    stop = asyncio.Event()
    with suppress(NotImplementedError):  # Windows has no signals for event loops; Ctrl-C still ends it
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
    return stop
