"""The policy server: openpi's WebSocket protocol, one session per connection, one network for all.

The event loop keeps the connections. Threads read what came (messages, JPEG, instructions); one more takes the steps of
the network, those of several robots as a batch. New sessions are refused once the machine carries no more: a robot has
one request under way at most, so a bounded number of robots means a bounded latency for each.
"""

from __future__ import annotations

import asyncio
import gc
import hmac
import logging
import os
import socket
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import Any, cast

from websockets.asyncio.server import Server, ServerConnection
from websockets.asyncio.server import serve as open_server
from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response
from websockets.protocol import State

from rt1.common.signals import stop_on_signals
from rt1.errors import GoneError, PolicyError, ProtocolError
from rt1.policy.base import Instruction
from rt1.policy.policy import Policy
from rt1.policy.stepper import EpisodeState
from rt1.serve import protocol
from rt1.serve.batching import Batcher
from rt1.serve.capacity import Capacity, measured_times
from rt1.serve.connections import ACTIVE_SECONDS, CLOSE_SECONDS, Connection, Connections
from rt1.serve.counters import Counters
from rt1.serve.credentials import read_key, server_context
from rt1.serve.heartbeat import beat
from rt1.serve.session import Effort, Session, Turn
from rt1.serve.settings import ServerSettings

_LOG = logging.getLogger(__name__)
_MAX_REASON = 500
_INTERNAL_ERROR, _GOING_AWAY, _TRY_LATER = 1011, 1001, 1013
_READERS = min(4, os.cpu_count() or 1)
_ACCEPTED_AT_ONCE = 8
_BACKLOG = 128
"""Connections that wait to be accepted."""
_SWITCH_SECONDS = 0.0005
"""The event loop waits for Python code in other threads at most so long; 5 ms unless set."""
_SHORT = 1 << 20
"""Bytes of a message that is read in well under a millisecond."""


class PolicyServer:
    """Serves one policy to many robots."""

    def __init__(self, policy: Policy, settings: ServerSettings, *, metadata: dict[str, Any] | None = None) -> None:
        """Read key and certificate; nothing is opened yet.

        Args:
            policy: network and text encoder. Its own episode is not used.
            settings: where and how to serve.
            metadata: plain data that each client gets first, besides what the server says of itself.

        Raises:
            ValueError: an empty key, or a file that holds no certificate or not its key.
            OSError: a file that cannot be read.
        """
        self.settings = settings
        self.counters = Counters()
        self._policy = policy
        self._key = None if settings.api_key_file is None else read_key(settings.api_key_file)
        certificate = settings.certificate
        self._tls = None if certificate is None else server_context(certificate, settings.private_key)
        self._window = policy.sizes.window
        facts = {"policy": "rt1", "action_spec": policy.action_spec.to_json(), "window": self._window}
        self._metadata = protocol.encode({**(metadata or {}), **facts})
        self._connections = Connections(max_sessions=settings.max_sessions, max_bytes=settings.max_memory_mb * 1e6)
        self._readers = ThreadPoolExecutor(_READERS, thread_name_prefix="rt1-read")
        self._starter = ThreadPoolExecutor(1, thread_name_prefix="rt1-start")
        self._large_reader = ThreadPoolExecutor(1, thread_name_prefix="rt1-read-large")
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="rt1-step")
        self._encoding = threading.Lock()
        self._shaking_hands = asyncio.Lock()
        self._stopping = False

    async def run(self, stop: asyncio.Event, ready: Callable[[int], None]) -> None:
        """Measure the network, serve until ``stop`` is set, finish open requests, close all connections.

        ``ready`` is called with the port once the server accepts connections.
        """
        await self._measure()
        server = await self._open()
        for listener in server.sockets:
            with listener.dup() as socket_:
                socket_.listen(_BACKLOG)
        tasks = [asyncio.create_task(task) for task in (self._batcher.run(), beat(self.counters.loop_stalls.append))]
        try:
            ready(int(next(iter(server.sockets)).getsockname()[1]))
            await stop.wait()
        finally:
            await self._shut_down(server)
            for task in tasks:
                task.cancel()

    async def _open(self) -> Server:
        settings = self.settings
        try:
            return await open_server(
                self._serve_session,
                settings.host,
                settings.port,
                ssl=self._tls,
                process_request=self._shake_hands,
                backlog=_ACCEPTED_AT_ONCE,
                compression=None,
                origins=[None],  # no web page in a browser on this machine may drive a robot
                max_size=int(settings.max_message_mb * 1e6),
                max_queue=1,
                close_timeout=CLOSE_SECONDS,
                create_connection=cast("type[ServerConnection]", partial(Connection, self._connections)),
                server_header=None,
            )
        except (socket.gaierror, UnicodeError) as error:  # neither names the host
            raise OSError(
                f"host is {settings.host!r}, which is not found ({error}); give an address or a name"
            ) from error
        except OSError as error:
            reason = os.strerror(error.errno or 0).lower()
            raise OSError(
                f"host is {settings.host!r} with port {settings.port}: {reason}; give an address of this machine and a "
                "free port, or 0"
            ) from error

    @property
    def waiting(self) -> int:
        """Steps that wait for the network."""
        return self._batcher.waiting

    @property
    def capacity(self) -> int:
        """Sessions that the machine carries now; known once it serves."""
        return self._capacity.sessions(self.settings.max_sessions)

    @property
    def engine(self) -> str:
        return self._policy.engine

    @property
    def step_seconds(self) -> float:
        """How long the network takes now for one robot's step; known once it serves."""
        return self._capacity.seconds(1)

    async def _measure(self) -> None:
        """Measure the capacity, which also warms up the network for the first robot."""
        settings, policy = self.settings, self._policy
        measure = partial(measured_times, policy, max_batch=settings.max_batch, max_latency=settings.max_latency)
        times = await asyncio.get_running_loop().run_in_executor(self._worker, measure)
        self._capacity = Capacity(times, max_latency=settings.max_latency)
        self._batcher = Batcher(
            policy, self._capacity, self._worker, max_wait=settings.batch_wait, on_batch=self.counters.stepped
        )

    async def _shut_down(self, server: Server) -> None:
        self._stopping = True
        server.close(close_connections=False)
        idle = [connection for connection in self._connections.sessions if not connection.is_busy]
        await asyncio.gather(*(connection.close(_GOING_AWAY, "the server stops") for connection in idle))
        with suppress(TimeoutError):
            async with asyncio.timeout(self.settings.grace_seconds):
                await server.wait_closed()
        for connection in server.connections:
            connection.transport.abort()
        for pool in (self._worker, self._readers, self._starter, self._large_reader):
            pool.shutdown(wait=False, cancel_futures=True)

    async def _shake_hands(self, connection: ServerConnection, request: Request) -> Response | None:
        async with self._shaking_hands:  # one at a time, so that many new connections do not block the event loop
            await asyncio.sleep(0)
            return self._screen(connection, request)

    def _screen(self, connection: ServerConnection, request: Request) -> Response | None:
        """Return the response to plain HTTP, or to a client that is refused. None accepts the client."""
        if request.path == "/healthz":
            return connection.respond(200, "OK\n")
        for name in ("Host", "Authorization"):
            if (count := len(request.headers.get_all(name))) > 1:
                _LOG.warning("a request with %d %s headers was refused", count, name)
                return connection.respond(400, f"the request has {count} {name} headers; send one\n")
        if self._key is not None:
            shown = request.headers.get("Authorization", "").encode(errors="surrogateescape")
            if not hmac.compare_digest(shown, b"Api-Key " + self._key):
                self.counters.refused.labels("key").inc()
                return connection.respond(401, "the API key is missing or wrong\n")
        if request.path == "/metrics":
            self.counters.capacity.set(self.capacity)
            self.counters.held_bytes.set(self._connections.held)
            self.counters.sessions.set(len(self._connections.sessions))
            self.counters.active_sessions.set(self._connections.active)
            headers = Headers({"Content-Type": "text/plain; version=0.0.4", "Connection": "close"})
            body = self.counters.text()
            headers["Content-Length"] = str(len(body))
            return Response(200, "OK", headers, body)
        refusal = self._refusal()
        return None if refusal is None else connection.respond(503, refusal + "\n")

    def _refusal(self) -> str | None:
        """Return why no further session is taken, and count it; None where one is."""
        active, most, latency = self._connections.active, self.settings.max_sessions, self.settings.max_latency
        if self._stopping:
            why, words = "stopping", "the server stops"
        elif active >= most:
            why, words = "full", f"the server has its {most} sessions; close one, or raise max_sessions"
        elif not self._capacity.carries(active + 1) or self._batcher.oldest_wait() > latency:
            why = "busy"
            words = (
                f"the server is too busy for another session: it has {active} and answers {self.capacity} at once "
                f"within {latency:g} s; try again later, use another server, or raise max_latency"
            )
        else:
            return None
        self.counters.refused.labels(why).inc()
        return words

    async def _serve_session(self, connection: ServerConnection) -> None:
        assert isinstance(connection, Connection)
        # Asked again: other clients may have connected during this handshake.
        if (refusal := self._refusal()) is not None:
            with suppress(ConnectionClosed):
                await _refuse(connection, refusal, _TRY_LATER)
            return
        self._connections.start_session(connection)
        self.counters.sessions_started.inc()
        try:
            await connection.send(self._metadata)
            await self._converse(connection, Session(self._start, self._policy.prepare, window=self._window))
        except (ConnectionClosed, GoneError):
            pass  # the client has disconnected
        finally:
            self._connections.remove(connection)

    async def _converse(self, connection: Connection, session: Session) -> None:
        previous: float | None = None
        while not self._stopping:
            try:
                async with asyncio.timeout(self.settings.idle_seconds):
                    message = await connection.recv()
            except TimeoutError:
                await _refuse(connection, f"no request came for {self.settings.idle_seconds:g} s; connect again")
                return
            # Idle sessions do not count for the capacity, so the first request after a while needs a place, too.
            if connection.idle_seconds > ACTIVE_SECONDS and (refusal := self._refusal()) is not None:
                await _refuse(connection, refusal, _TRY_LATER)
                return
            connection.begin()
            start = time.perf_counter()
            try:
                reply = await self._answer(connection, session, message, previous)
            except GoneError:
                raise
            except Exception as error:  # noqa: BLE001 (one session's failure must not reach the others)
                self.counters.errors.labels("request" if _is_of_request(error) else "server").inc()
                await _refuse(connection, _reason(error))
                return
            connection.end(len(message))
            await connection.send(reply)
            previous = time.perf_counter() - start
            self.counters.latency.observe(previous)
        await connection.close(_GOING_AWAY, "the server stops")

    async def _answer(
        self, connection: ServerConnection, session: Session, message: str | bytes, previous: float | None
    ) -> bytes:
        turn = await self._read(session, message)
        state, seconds, actions = turn.state, 0.0, {}
        for image in turn.images:
            stepped = await self._batcher.step(
                connection, state, image, is_wanted=lambda: connection.state is State.OPEN
            )
            state, seconds = stepped.state, seconds + stepped.seconds
            actions = {"actions": stepped.action[None]}
        session.remember(turn, state)
        timing = {"infer_ms": 1e3 * seconds}
        if previous is not None:
            timing["prev_total_ms"] = 1e3 * previous
        return protocol.encode({**actions, "server_timing": timing})

    async def _read(self, session: Session, message: str | bytes) -> Turn:
        if isinstance(message, str):
            raise ProtocolError("a text message came; an observation is a binary msgpack message")
        observation = await _call(None if len(message) <= _SHORT else self._readers, protocol.decode, message)
        # Each kind waits for its own kind only: no robot waits for large images.
        readers = {Effort.SMALL: self._readers, Effort.START: self._starter, Effort.LARGE: self._large_reader}
        return await _call(readers.get(session.effort(observation)), session.read, observation)

    def _start(self, instruction: Instruction) -> EpisodeState:
        """Start an episode; text encoders are not made for several threads."""
        with self._encoding:
            return self._policy.start(instruction)


async def _call(executor: Executor | None, function: Callable[[Any], Any], argument: Any) -> Any:  # noqa: ANN401
    """Return the function's result, computed in a thread or, where a thread would cost more time, at once."""
    if executor is None:
        return function(argument)
    return await asyncio.get_running_loop().run_in_executor(executor, function, argument)


async def _refuse(connection: ServerConnection, reason: str, code: int = _INTERNAL_ERROR) -> None:
    """Send the reason as the protocol requires: a text message, then the close of the connection."""
    await connection.send(reason)
    await connection.close(code)


def _is_of_request(error: Exception) -> bool:
    return isinstance(error, ValueError) and not isinstance(error, PolicyError)


def _reason(error: Exception) -> str:
    """Return one line for the robot. An error that the request did not cause is logged, too."""
    if not _is_of_request(error):
        _LOG.error("a request failed", exc_info=error)
    if isinstance(error, ValueError):
        return " ".join(str(error).split())[:_MAX_REASON]
    return "the server failed at this request; its log says why; connect again"


def serve(server: PolicyServer, ready: Callable[[int], None]) -> None:
    """Serve until SIGTERM or SIGINT, in the main thread of a process. An address that is taken raises ``OSError``."""

    async def run() -> None:
        gc.freeze()  # the network's many objects stay; each collection would take 10 ms to scan them
        gc.set_threshold(700, 10, 1000)  # a full collection among many connections takes 60 ms, so it is rare
        sys.setswitchinterval(_SWITCH_SECONDS)
        await server.run(stop_on_signals(), ready)

    asyncio.run(run())
