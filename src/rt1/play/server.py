"""The server of the page: HTTP and a WebSocket on loopback. Every open tab watches and drives the same run."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress

from websockets.asyncio.server import ServerConnection
from websockets.asyncio.server import serve as open_server
from websockets.exceptions import ConnectionClosed

from rt1.common.signals import stop_on_signals
from rt1.play import page
from rt1.play.messages import describe, parse_command
from rt1.play.playground import Playground
from rt1.play.worker import Worker

HOST = "127.0.0.1"
_LONGEST_COMMAND = 8192
_LONGEST_REASON = 123  # bytes, in a WebSocket's close frame
_POLICY_VIOLATION = 1008


class PlayServer:
    """Shows one playground to any number of browser tabs on this machine."""

    def __init__(self, playground: Playground, *, title: str, port: int = 0) -> None:
        """Take over a playground. Nothing opens yet.

        ``title`` is the page's title, such as the checkpoint's name. ``port`` is on 127.0.0.1, 0 takes a free one.
        A port outside 0..65535 raises ``ValueError``.
        """
        if not 0 <= port < 1 << 16:
            raise ValueError(f"port is {port}, must lie in 0..65535")
        self._port = port
        self._facts = describe(playground, title)
        self._worker = Worker(playground)

    def open(self) -> None:
        """Open the first task's environment, which takes seconds, and raise its errors."""
        self._worker.open()

    async def run(self, stop: asyncio.Event, ready: Callable[[int], None]) -> None:
        """Serve until ``stop`` is set. Then close the environment. Call :meth:`open` before."""
        try:
            async with open_server(
                self._attend,
                HOST,
                self._port,
                process_request=lambda _, request: page.answer(request),
                compression=None,
                max_size=_LONGEST_COMMAND,
                close_timeout=2,
                server_header=None,
            ) as server:
                ready(int(next(iter(server.sockets)).getsockname()[1]))
                await stop.wait()
        finally:
            await asyncio.to_thread(self._worker.close)

    async def _attend(self, connection: ServerConnection) -> None:
        showing = asyncio.create_task(self._show(connection))
        try:
            async for message in connection:
                self._worker.submit(parse_command(message))
        except ConnectionClosed:
            pass  # the tab was closed
        except ValueError as error:
            reason = str(error).encode(errors="replace")[:_LONGEST_REASON].decode(errors="ignore")
            await connection.close(_POLICY_VIOLATION, reason)
        finally:
            showing.cancel()

    async def _show(self, connection: ServerConnection) -> None:
        """Send each new view. A slow tab misses some."""
        loop, news = asyncio.get_running_loop(), asyncio.Event()
        news.set()

        def notify() -> None:
            with suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(news.set)

        self._worker.listeners.add(notify)
        try:
            await connection.send(self._facts)
            while True:
                await news.wait()
                news.clear()
                await connection.send(self._worker.latest)
        except ConnectionClosed:
            pass
        finally:
            self._worker.listeners.discard(notify)


def serve(server: PlayServer, ready: Callable[[int], None]) -> None:
    """Open the environment and serve until SIGTERM or SIGINT, in the main thread. A taken port raises ``OSError``."""

    async def run() -> None:
        await server.run(stop_on_signals(), ready)

    server.open()
    asyncio.run(run())
