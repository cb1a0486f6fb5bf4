"""The policy server: openpi's WebSocket protocol, one session per connection, one network for all.

Requests of all sessions queue for one worker thread, first come, first served: the event loop stays free for pings and
other connections, and each session gets exactly what it would get alone. A batch would not give that: the last bits of
a product of matrices depend on how many rows it has.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import signal
import ssl
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

from websockets.asyncio.server import Server, ServerConnection
from websockets.asyncio.server import serve as open_server
from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

from rt1.policy import Policy
from rt1.serve import protocol
from rt1.serve.counters import Counters
from rt1.serve.session import Session
from rt1.serve.settings import ServerSettings

_LOG = logging.getLogger(__name__)
_MAX_REASON = 500
_INTERNAL_ERROR, _GOING_AWAY = 1011, 1001


class PolicyServer:
    """Serves one policy to many robots."""

    def __init__(self, policy: Policy, settings: ServerSettings, *, metadata: dict[str, Any] | None = None) -> None:
        """Read key and certificate; nothing is opened yet.

        Args:
            policy: network and text encoder; its own memory is not used.
            settings: where and how to serve.
            metadata: plain data that each client gets first, besides what the server says of itself.

        Raises:
            ValueError: an empty key.
            OSError: the key or the certificate cannot be read.
        """
        self.settings = settings
        self.counters = Counters()
        self._policy = policy
        self._key = None if settings.api_key_file is None else _read_key(settings.api_key_file)
        self._tls = _tls(settings)
        own = {"policy": "rt1", "action_spec": policy.action_spec.to_json(), "window": policy.model.config.window}
        self._metadata = protocol.encode({**(metadata or {}), **own})
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="rt1-policy")
        self._idle: set[ServerConnection] = set()
        self._waiting: dict[ServerConnection, float] = {}
        self._stopping = False

    async def run(self, stop: asyncio.Event, ready: Callable[[int], None]) -> None:
        """Serve until ``stop`` is set; then finish the requests under way and close all connections.

        Args:
            stop: the order to stop.
            ready: called with the port once connections are taken.
        """
        settings = self.settings
        server = await open_server(
            self._serve_session,
            settings.host,
            settings.port,
            ssl=self._tls,
            process_request=self._screen,
            compression=None,
            origins=[None],  # no web page in a browser on this machine may drive a robot
            max_size=int(settings.max_message_mb * 1e6),
            max_queue=1,
            server_header=None,
        )
        try:
            ready(int(next(iter(server.sockets)).getsockname()[1]))
            await stop.wait()
        finally:
            await self._shut_down(server)

    async def _shut_down(self, server: Server) -> None:
        self._stopping = True
        server.close(close_connections=False)
        await asyncio.gather(*(connection.close(_GOING_AWAY, "the server stops") for connection in self._idle))
        with suppress(TimeoutError):
            async with asyncio.timeout(self.settings.grace_seconds):
                await server.wait_closed()
        for connection in server.connections:
            connection.transport.abort()
        self._worker.shutdown(wait=False, cancel_futures=True)

    def _screen(self, connection: ServerConnection, request: Request) -> Response | None:
        """Answer plain HTTP, and refuse who has no key or comes when the house is full; None lets a client in."""
        if request.path == "/healthz":
            return connection.respond(200, "OK\n")
        if self._key is not None:
            shown = request.headers.get("Authorization", "").encode()
            if not hmac.compare_digest(shown, b"Api-Key " + self._key):
                return connection.respond(401, "the API key is missing or wrong\n")
        if request.path == "/metrics":
            headers = Headers({"Content-Type": "text/plain; version=0.0.4", "Connection": "close"})
            body = self.counters.text().encode()
            headers["Content-Length"] = str(len(body))
            return Response(200, "OK", headers, body)
        refusal = self._refusal()
        if refusal is not None:
            self.counters.sessions_refused += 1
            return connection.respond(503, refusal + "\n")
        return None

    def _refusal(self) -> str | None:
        if self._stopping:
            return "the server stops"
        if self.counters.sessions >= self.settings.max_sessions:
            return f"the server has its {self.settings.max_sessions} sessions; close one, or raise max_sessions"
        oldest = min(list(self._waiting.values()), default=None)  # the worker takes from it meanwhile
        if oldest is not None and time.perf_counter() - oldest > self.settings.max_wait:
            return "the server is too busy for another session; try again later, or use another one"
        return None

    async def _serve_session(self, connection: ServerConnection) -> None:
        self.counters.sessions += 1
        self.counters.sessions_started += 1
        try:
            await connection.send(self._metadata)
            await self._converse(connection, Session(self._policy))
        except ConnectionClosed:
            pass  # the robot has gone, whatever the server was doing for it
        finally:
            self._idle.discard(connection)
            self.counters.sessions -= 1

    async def _converse(self, connection: ServerConnection, session: Session) -> None:
        previous: float | None = None
        while not self._stopping:
            self._idle.add(connection)
            try:
                async with asyncio.timeout(self.settings.idle_seconds):
                    message = await connection.recv()
            except TimeoutError:
                await _refuse(connection, f"no request came for {self.settings.idle_seconds:g} s; connect again")
                return
            self._idle.discard(connection)
            start = time.perf_counter()
            self._waiting[connection] = start
            try:
                reply = await asyncio.get_running_loop().run_in_executor(
                    self._worker, self._answer, connection, session, message, previous
                )
            except Exception as error:  # noqa: BLE001 (one session's failure must not reach the others)
                self.counters.errors += 1
                await _refuse(connection, _reason(error))
                return
            finally:
                self._waiting.pop(connection, None)
            await connection.send(reply)
            previous = time.perf_counter() - start
            self.counters.answered(previous)
        await connection.close(_GOING_AWAY, "the server stops")

    def _answer(
        self, connection: ServerConnection, session: Session, message: str | bytes, previous: float | None
    ) -> bytes:
        """Return the reply to a request; runs in the worker."""
        self._waiting.pop(connection, None)
        if isinstance(message, str):
            raise protocol.ProtocolError("a text message came; an observation is a binary msgpack message")
        observation = protocol.decode(message)
        start = time.perf_counter()
        actions = session.answer(observation)
        timing = {"infer_ms": 1e3 * (time.perf_counter() - start)}
        if previous is not None:
            timing["prev_total_ms"] = 1e3 * previous
        return protocol.encode({**({} if actions is None else {"actions": actions}), "server_timing": timing})


async def _refuse(connection: ServerConnection, reason: str) -> None:
    """Say what is wrong as the protocol wants it: a text message, then the end of the connection."""
    await connection.send(reason)
    await connection.close(_INTERNAL_ERROR)


def _reason(error: Exception) -> str:
    """Return one line for the robot; what is no fault of the request stays in the server's log."""
    if isinstance(error, ValueError):
        return " ".join(str(error).split())[:_MAX_REASON]
    _LOG.error("a request failed", exc_info=error)
    return "the server failed at this request; its log says why; connect again"


def _read_key(file: Path) -> bytes:
    lines = file.read_text().splitlines()
    if not lines or not lines[0].strip():
        raise ValueError(f"{file} has no API key on its first line; write one there")
    return lines[0].strip().encode()


def _tls(settings: ServerSettings) -> ssl.SSLContext | None:
    if settings.certificate is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(settings.certificate, settings.private_key)
    return context


def serve(server: PolicyServer, ready: Callable[[int], None]) -> None:
    """Serve until SIGTERM or SIGINT; for the main thread of a process.

    Args:
        server: what to serve.
        ready: called with the port once connections are taken.

    Raises:
        OSError: the address is taken or not this machine's.
    """

    async def run() -> None:
        stop = asyncio.Event()
        with suppress(NotImplementedError):  # Windows has no signals for event loops; Ctrl-C still ends it
            for number in (signal.SIGTERM, signal.SIGINT):
                asyncio.get_running_loop().add_signal_handler(number, stop.set)
        await server.run(stop, ready)

    asyncio.run(run())
