"""Progress of long work on the terminal: what, how far, how fast, how long still."""

from __future__ import annotations

import io
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

_LINE_SECONDS = 10.0


class Progress:
    """A bar on a terminal, a line now and then in a log file."""

    def __init__(self, name: str, total: int, *, unit: str, done: int = 0, stream: TextIO | None = None) -> None:
        self.name, self.total, self.unit = name, total, unit
        self._stream = stream or sys.stderr
        self._bar = self._stream.isatty()
        self._done = self._first = done
        self._started = time.monotonic()
        self._shown = self._started if not self._bar else 0.0

    def update(self, done: int, note: str = "") -> None:
        """Say that ``done`` of the total are done."""
        self._done = done
        now = time.monotonic()
        if now - self._shown >= (0.2 if self._bar else _LINE_SECONDS) or done == self.total:
            self._shown = now
            self._show(note)

    def close(self) -> None:
        """End the bar's line."""
        if self._bar:
            self._stream.write("\n")
            self._stream.flush()

    def _show(self, note: str) -> None:
        seconds = max(time.monotonic() - self._started, 1e-9)
        rate = (self._done - self._first) / seconds
        left = duration((self.total - self._done) / rate) if rate > 0 else "?"
        share = self._done / max(self.total, 1)
        speed = f"{rate:.0f}" if rate >= 100 else f"{rate:.3g}"
        text = f"{self.name} {self._done}/{self.total} {self.unit}, {speed}/s, {left} left"
        if note:
            text += f", {note}"
        if self._bar:
            filled = round(share * 20)
            text = f"\r\x1b[2K[{'#' * filled}{'.' * (20 - filled)}] {text}"
            self._stream.write(text)
        else:
            self._stream.write(text + "\n")
        self._stream.flush()


@contextmanager
def progress(name: str, total: int, *, unit: str, done: int = 0, quiet: bool = False) -> Iterator[Progress]:
    """Show progress while the block runs; call ``update(done)`` inside. ``quiet`` shows nothing."""
    bar = Progress(name, total, unit=unit, done=done, stream=io.StringIO() if quiet else None)
    try:
        yield bar
    finally:
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
