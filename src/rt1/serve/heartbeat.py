"""How late the event loop is: while it is held up, no robot gets an answer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

PERIOD = 0.01
"""Seconds between two beats."""


async def beat(late: Callable[[float], None]) -> None:
    """Call a function at a fixed rate with the seconds that the loop was late, until canceled.

    A beat that was missed counts as one that came late, so a long stall counts for its length.
    """
    loop = asyncio.get_running_loop()
    due = loop.time() + PERIOD
    while True:
        await asyncio.sleep(due - loop.time())
        now = loop.time()
        while due <= now:
            late(now - due)
            due += PERIOD
