"""The thread that owns environment and policy: it runs commands, keeps the step rate, and publishes views."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial

from rt1.play.messages import Command, encode_view
from rt1.play.playground import Playground

_LOG = logging.getLogger(__name__)
_MOST_WAITING = 32
_PATIENCE = 10.0


class Worker:
    """Runs a playground in one thread, which a simulator's renderer must not leave.

    ``latest`` is the newest encoded view. A slow reader misses some.
    """

    def __init__(self, playground: Playground) -> None:
        """Take over a playground."""
        self.latest = b""
        self._playground = playground
        playground.on_opening = self._publish
        self.listeners: set[Callable[[], None]] = set()
        """Called in the worker's thread after each new view."""
        self._commands: queue.SimpleQueue[Command | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="rt1-play", daemon=True)
        self._opened: Future[None] = Future()

    def open(self) -> None:
        """Start the thread, wait for the first task's environment, and raise its errors.

        An instruction that the policy refuses is shown on the page instead.
        """
        self._thread.start()
        self._opened.result()

    def submit(self, command: Command) -> None:
        """Queue a command. A full queue raises ``ValueError``."""
        if self._commands.qsize() >= _MOST_WAITING:
            raise ValueError(f"{_MOST_WAITING} commands wait already. Send no more before the page shows their effect")
        self._commands.put(command)

    def close(self) -> None:
        """End the thread and free the environment. A simulator that hangs is abandoned after a few seconds."""
        self._commands.put(None)
        if self._thread.is_alive():
            self._thread.join(_PATIENCE)

    def _work(self) -> None:
        try:
            self._open_first()
        except BaseException as error:  # noqa: BLE001 (it is raised again in the thread that waits for it)
            self._opened.set_exception(error)
            return
        self._opened.set_result(None)
        due = time.monotonic()
        while True:
            running = self._playground.view.phase == "running"
            try:
                command = self._commands.get(timeout=max(0.0, due - time.monotonic()) if running else None)
            except queue.Empty:
                due = time.monotonic() + self._playground.period  # a late step is not caught up with a burst
                self._attempt(self._playground.step)
                continue
            if command is None:
                break
            self._playground.view.error = None
            self._attempt(partial(command.apply, self._playground))
        self._attempt(self._playground.close)

    def _open_first(self) -> None:
        try:
            self._playground.choose_task(self._playground.tasks[0])
        except ValueError as error:
            if self._playground.view.phase != "stopped":
                raise
            self._playground.view.error = _one_line(error)
        self._publish()

    def _attempt(self, action: Callable[[], None]) -> None:
        try:
            action()
        except Exception as error:  # noqa: BLE001 (the page must go on, and say it)
            if not isinstance(error, ValueError):
                _LOG.error("the run failed", exc_info=error)
            self._playground.view.error = _one_line(error)
        self._publish()

    def _publish(self) -> None:
        self.latest = encode_view(self._playground.view)
        for listener in tuple(self.listeners):  # tabs come and go in another thread
            listener()


def _one_line(error: Exception) -> str:
    """Return the page's text of a failure. An error that the user cannot fix includes its class."""
    text = " ".join(str(error).split())[:500]
    return text if isinstance(error, ValueError) else f"{type(error).__name__}: {text or 'no reason given'}"
