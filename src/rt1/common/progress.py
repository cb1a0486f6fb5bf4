"""Progress of long work on the terminal: what, how far, how fast, how long still."""

from __future__ import annotations

import contextlib
import io
import multiprocessing
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any, TextIO

_LINE_SECONDS = 10.0
_BAR_SECONDS = 0.2


class Progress:
    """A bar on a terminal. In a log file a line every 10 seconds, and the last one."""

    def __init__(self, name: str, total: int, *, unit: str, done: int = 0, stream: TextIO | None = None) -> None:
        self.name, self.total, self.unit = name, total, unit
        self._stream = stream or sys.stderr
        self._bar = self._stream.isatty()
        self._done = self._first = done
        self._note = ""
        self._started = time.monotonic()
        self._shown = 0.0 if self._bar else self._started
        self._is_new = False  # whether something is not shown yet

    def update(self, done: int, note: str = "") -> None:
        """Say that ``done`` of the total are done."""
        self._done, self._note, self._is_new = done, note, True
        if time.monotonic() - self._shown >= (_BAR_SECONDS if self._bar else _LINE_SECONDS):
            self._show()

    def close(self) -> None:
        """Show what is not shown yet, and end the bar's line."""
        if self._is_new:
            self._show()
        if self._bar:
            self._stream.write("\n")
            self._stream.flush()

    def _speed(self) -> tuple[str, float | None]:
        """Return the speed in words, and the seconds left if they can be estimated."""
        rate = (self._done - self._first) / max(time.monotonic() - self._started, 1e-9)
        return f"{_number(rate)}/s", (self.total - self._done) / rate if rate > 0 else None

    def _show(self) -> None:
        speed, left = self._speed()
        time_left = "?" if left is None else duration(left)
        note = f", {self._note}" if self._note else ""
        text = f"{self.name} {self._done}/{self.total} {self.unit}, {speed}, {time_left} left{note}".lstrip()
        bar = "#" * round(self._done / max(self.total, 1) * 20)
        self._stream.write(f"\r\x1b[2K[{bar:.<20}] {text}" if self._bar else f"{text}\n")
        self._stream.flush()
        self._shown, self._is_new = time.monotonic(), False


def _number(rate: float) -> str:
    return f"{rate:.0f}" if rate >= 100 else f"{rate:.3g}"


class EpisodeCount:
    """Episodes done, steps done, and the longest that an episode may be, of this process and of its workers."""

    def __init__(self, episodes: int = 0) -> None:
        self._numbers: Any = [episodes, 0, 0]
        self._lock: Any = contextlib.nullcontext()

    def share(self) -> None:
        """Move the numbers to where worker processes can add to them."""
        shared = multiprocessing.get_context("spawn").Array("q", self._numbers[:])
        self._numbers, self._lock = shared.get_obj(), shared.get_lock()

    def add(self, *, episodes: int = 0, steps: int = 0, longest: int = 0) -> None:
        """Add to the numbers."""
        with self._lock:
            self._numbers[0] += episodes
            self._numbers[1] += steps
            self._numbers[2] = max(self._numbers[2], longest)

    def read(self) -> list[int]:
        """Return the three numbers, without the lock: a worker that was killed may hold it for ever."""
        return self._numbers[:]


counts: list[EpisodeCount] = []
"""What this process counts into: nothing, or one."""


def count_step(longest: int) -> None:
    """Count a step of an episode that has at most ``longest`` steps."""
    for count in counts:
        count.add(steps=1, longest=longest)


def count_episode() -> None:
    """Count an episode as done."""
    for count in counts:
        count.add(episodes=1)


class EpisodeProgress(Progress):
    """Progress of episodes, by the steps that this process and its workers count."""

    note = ""
    """What else the line says."""

    def __init__(self, count: EpisodeCount, name: str, total: int, *, unit: str, stream: TextIO | None = None) -> None:
        super().__init__(name, total, unit=unit, done=count.read()[0], stream=stream)
        self._count = count

    def poll(self) -> None:
        """Show what was counted."""
        episodes, steps, _ = self._count.read()
        if not steps:
            self._started = time.monotonic()  # the start of the workers says nothing about the speed
        self.update(episodes, self.note)

    def _speed(self) -> tuple[str, float | None]:
        # The next episodes are taken to be as long as those before, or the first as long as they may be.
        episodes, steps, longest = self._count.read()
        rate = steps / max(time.monotonic() - self._started, 1e-9)
        done = episodes - self._first
        expected = (self.total - self._first) * (steps / done if done else longest)
        return f"{steps} steps, {_number(rate)} steps/s", max(expected - steps, 0) / rate if rate > 0 else None


@contextlib.contextmanager
def progress(name: str, total: int, *, unit: str, done: int = 0, quiet: bool = False) -> Iterator[Progress]:
    """Show progress while the block runs. Call ``update(done)`` inside. ``quiet`` shows nothing."""
    bar = Progress(name, total, unit=unit, done=done, stream=io.StringIO() if quiet else None)
    try:
        yield bar
    finally:
        bar.close()


@contextlib.contextmanager
def episode_progress(name: str, total: int, *, unit: str = "episodes", done: int = 0) -> Iterator[EpisodeProgress]:
    """Show how many episodes and steps are counted while the block runs, by this process or its workers.

    Inside, :func:`count_step` and :func:`count_episode` count, and ``note`` may be set.
    """
    count, ended = EpisodeCount(done), threading.Event()
    bar = EpisodeProgress(count, name, total, unit=unit)

    def watch() -> None:
        while not ended.wait(_BAR_SECONDS):
            bar.poll()

    thread = threading.Thread(target=watch, daemon=True, name="rt1-progress")
    counts[:] = [count]
    thread.start()
    try:
        yield bar
    finally:
        counts.clear()
        ended.set()
        thread.join()
        if total:
            bar.poll()
        bar.close()


def say(text: str) -> None:
    """Write a line that the user of long work should read before it is done."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def duration(seconds: float, digits: int = 0) -> str:
    """Return seconds in words a person reads at a glance, under a minute with so many digits after the point.

    >>> duration(7.2), duration(7.2, 1), duration(95), duration(7322)
    ('7 s', '7.2 s', '1 min 35 s', '2 h 2 min')
    """
    if round(seconds, digits) < 60:
        return f"{seconds:.{digits}f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
