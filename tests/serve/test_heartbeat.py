"""The heartbeat of the event loop: a loop that is held up is late for each beat it missed."""

from __future__ import annotations

import asyncio
import time

from rt1.serve.heartbeat import PERIOD, beat


def _beats(block: float) -> list[float]:
    late: list[float] = []

    async def run() -> None:
        task = asyncio.create_task(beat(late.append))
        await asyncio.sleep(3 * PERIOD)
        time.sleep(block)
        await asyncio.sleep(PERIOD)
        task.cancel()

    asyncio.run(run())
    return late


def test_a_loop_that_is_held_up_is_late_for_each_beat_it_missed() -> None:
    late = _beats(0.2)
    assert max(late) > 0.2 - 2 * PERIOD
    assert sum(seconds > 0.1 for seconds in late) >= 8


def test_beats_are_never_early() -> None:
    late = _beats(0.0)
    assert len(late) >= 3
    assert min(late) >= 0.0
