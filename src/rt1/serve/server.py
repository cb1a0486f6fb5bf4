"""The policy server: a session per WebSocket connection, one network for all.

The event loop keeps the connections. Threads read what came (messages, JPEG, instructions). One more takes the steps of
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
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import Any, cast

from websockets.asyncio.server import Server, ServerConnection
from websockets.asyncio.server import serve as open_server
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response
from websockets.protocol import State

from rt1.common.signals import stop_on_signals
from rt1.errors import ClientDisconnectedError, PolicyError, ProtocolError
from rt1.policy.base import Instruction
from rt1.policy.policy import Policy
from rt1.policy.stepper import EpisodeState
from rt1.serve.batching import Batcher, Capacity, measured_times
from rt1.serve.connections import ACTIVE_SECONDS, CLOSE_SECONDS, Connection, Connections, repeated_header
from rt1.serve.counters import Counters
from rt1.serve.openpi import OpenPi
from rt1.serve.session import Effort, Session
from rt1.serve.settings import ServerSettings, read_key, server_context
from rt1.serve.vla_eval import VlaEval

_LOG = logging.getLogger(__name__)
_MAX_REASON = 500
_INTERNAL_ERROR, _GOING_AWAY, _TRY_LATER = 1011, 1001, 1013
_READERS = min(4, os.cpu_count() or 1)
_ACCEPTED_AT_ONCE = 8
_BACKLOG = 128
"""Connections that wait to be accepted."""
_SWITCH_SECONDS = 0.0005
"""The event loop waits for Python code in other threads at most so long, 5 ms unless set."""
_HEALTH = {"/healthz": "OK\n", "/health": '{"status": "ok"}\n'}
"""Path of a liveness probe, openpi's and vla-eval's, and the answer."""
_SHORT = 1 << 20
"""Bytes of a message that is read in well under a millisecond."""


class PolicyServer:
    """Serves one policy to many robots."""

    def __init__(self, policy: Policy, settings: ServerSettings, *, metadata: dict[str, Any] | None = None) -> None:
        """Read key and certificate. Nothing is opened yet.

        The policy's own episode is not used. Each client first gets ``metadata``, plain data, besides what the server
        says of itself. An empty key, or a file that holds no certificate or not its key, raises ``ValueError``.
        """
        self.settings = settings
        self.counters = Counters()
        self._policy = policy
        self._key = None if settings.api_key_file is None else read_key(settings.api_key_file)
        certificate = settings.certificate
        self._tls = None if certificate is None else server_context(certificate, settings.private_key)
        self._window = policy.sizes.window
        facts = {
            "policy": "rt1",
            "action_spec": policy.action_spec.to_json(),
            "window": self._window,
            "action_horizon": 1,
            "episode_pause": settings.episode_pause,
        }
        openpi = OpenPi({**(metadata or {}), **facts}, settings.image_key)
        self._new_dialogue: Callable[[], OpenPi | VlaEval] = lambda: openpi
        if settings.protocol == "vla-eval":
            self._new_dialogue = partial(VlaEval, policy.action_spec, settings.image_key)
        self._connections = Connections(max_sessions=settings.max_sessions, max_bytes=settings.max_memory_mb * 1e6)
        # Each kind of observation waits for its own kind only: no robot waits for large images.
        threads = {Effort.SMALL: _READERS, Effort.START: 1, Effort.LARGE: 1}
        self._readers = {effort: ThreadPoolExecutor(count, f"rt1-{effort.name}") for effort, count in threads.items()}
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="rt1-step")
        self._encoding = threading.Lock()
        self._shaking_hands = asyncio.Lock()
        self._stopping = False

    async def run(self, stop: asyncio.Event, ready: Callable[[int], None]) -> None:
        """Measure the network, serve until ``stop`` is set, finish open requests, close all connections.

        ``ready`` is called with the port once the server accepts connections.
        """
        loop, settings = asyncio.get_running_loop(), self.settings
        measure = partial(measured_times, max_batch=settings.max_batch, max_latency=settings.max_latency)
        times = await loop.run_in_executor(self._worker, measure, self._policy)
        self._capacity = Capacity(times, max_latency=settings.max_latency)
        self.batcher = Batcher(
            self._policy, self._capacity, self._worker, max_wait=settings.batch_wait, on_batch=self.counters.stepped
        )
        server = await self._open()
        for listener in server.sockets:
            with listener.dup() as socket_:
                socket_.listen(_BACKLOG)
        tasks = [asyncio.create_task(task) for task in (self.batcher.run(), self.counters.watch_loop())]
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
                ping_interval=self._new_dialogue().ping_seconds,
            )
        except (socket.gaierror, UnicodeError) as error:  # neither names the host
            raise OSError(
                f"host is {settings.host!r}, which is not found ({error}). Give an address or a name"
            ) from error
        except OSError as error:
            reason = os.strerror(error.errno or 0).lower()
            raise OSError(
                f"host is {settings.host!r} with port {settings.port}: {reason}. Give an address of this machine and a "
                "free port, or 0"
            ) from error

    @property
    def capacity(self) -> int:
        """Sessions that the machine carries now. Known once it serves."""
        return self._capacity.sessions(self.settings.max_sessions)

    @property
    def step_seconds(self) -> float:
        """How long the network takes now for one robot's step. Known once it serves."""
        return self._capacity.seconds(1)

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
        for pool in (self._worker, *self._readers.values()):
            pool.shutdown(wait=False, cancel_futures=True)

    async def _shake_hands(self, connection: ServerConnection, request: Request) -> Response | None:
        async with self._shaking_hands:  # one at a time, so that many new connections do not block the event loop
            await asyncio.sleep(0)
            return self._screen(connection, request)

    def _screen(self, connection: ServerConnection, request: Request) -> Response | None:
        """Return the response to plain HTTP, or to a client that is refused. None accepts the client."""
        if request.path in _HEALTH:
            return connection.respond(200, _HEALTH[request.path])
        if (complaint := repeated_header(request, "Host", "Authorization")) is not None:
            return connection.respond(400, complaint)
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
            response = connection.respond(200, self.counters.text().decode())
            del response.headers["Content-Type"]
            response.headers["Content-Type"] = "text/plain; version=0.0.4"
            return response
        refusal = self._refusal()
        return None if refusal is None else connection.respond(503, refusal + "\n")

    def _refusal(self) -> str | None:
        """Return why no further session is taken, and count it. None where one is."""
        active, most, latency = self._connections.active, self.settings.max_sessions, self.settings.max_latency
        if self._stopping:
            why, words = "stopping", "the server stops"
        elif active >= most:
            why, words = "full", f"the server has its {most} sessions. Close one, or raise max_sessions"
        elif active >= self.capacity or self.batcher.oldest_wait() > latency:
            why = "busy"
            words = (
                f"the server is too busy for another session: it has {active} and answers {self.capacity} at once "
                f"within {latency:g} s. Try again later, use another server, or raise max_latency"
            )
        else:
            return None
        self.counters.refused.labels(why).inc()
        return words

    async def _serve_session(self, connection: ServerConnection) -> None:
        assert isinstance(connection, Connection)
        dialogue = self._new_dialogue()
        # Asked again: other clients may have connected during this handshake.
        if (refusal := self._refusal()) is not None:
            with suppress(ConnectionClosed):
                await _refuse(connection, dialogue.error(refusal), _TRY_LATER)
            return
        self._connections.start_session(connection)
        self.counters.sessions_started.inc()
        try:
            if dialogue.greeting is not None:
                await connection.send(dialogue.greeting)
            await self._converse(connection, dialogue)
        except (ConnectionClosed, ClientDisconnectedError):
            pass  # the client has disconnected
        finally:
            self._connections.remove(connection)

    async def _converse(self, connection: Connection, dialogue: OpenPi | VlaEval) -> None:
        session = Session(
            self._start, self._policy.prepare, window=self._window, episode_pause=self.settings.episode_pause
        )
        timing: dict[str, float] = {}
        answered = time.perf_counter()
        while not self._stopping:
            try:
                async with asyncio.timeout(self.settings.idle_seconds):
                    message = await connection.recv()
            except TimeoutError:
                reason = f"no request came for {self.settings.idle_seconds:g} s. Connect again"
                await _refuse(connection, dialogue.error(reason))
                return
            # Idle sessions do not count for the capacity, so the first request after a while needs a place, too.
            if connection.idle_seconds > ACTIVE_SECONDS and (refusal := self._refusal()) is not None:
                await _refuse(connection, dialogue.error(refusal), _TRY_LATER)
                return
            connection.begin()
            start = time.perf_counter()
            session.pause(start - answered)
            reply: bytes | str | None
            try:
                reply = await self._answer(connection, session, dialogue, message, timing)
            except ClientDisconnectedError:
                raise
            except Exception as error:  # noqa: BLE001 (one session's failure must not reach the others)
                reply = dialogue.error(self._explain(error))
                if dialogue.closes_after_error:
                    await _refuse(connection, reply)
                    return
            connection.end(len(message))
            answered = time.perf_counter()
            if reply is not None:
                await connection.send(reply)
                answered = time.perf_counter()
                timing = {"prev_total_ms": 1e3 * (answered - start)}
                self.counters.latency.observe(answered - start)
        await connection.close(_GOING_AWAY, "the server stops")

    async def _answer(
        self,
        connection: ServerConnection,
        session: Session,
        dialogue: OpenPi | VlaEval,
        message: str | bytes,
        timing: dict[str, float],
    ) -> bytes | None:
        if isinstance(message, str):
            raise ProtocolError("a text message came. An observation is a binary msgpack message")
        observation = await self._call(Effort.NONE if len(message) <= _SHORT else Effort.SMALL, dialogue.read, message)
        if observation is None:
            return dialogue.reply(None, timing=timing, is_new_episode=False)
        turn = await self._call(session.effort(observation), session.read, observation)
        state, seconds, action = turn.state, 0.0, None
        for image in turn.images:
            stepped = await self.batcher.step(
                connection, state, image, is_wanted=lambda: connection.state is State.OPEN
            )
            state, seconds, action = stepped.state, seconds + stepped.seconds, stepped.action
        session.remember(turn, state)
        return dialogue.reply(
            action, timing={"infer_ms": 1e3 * seconds, **timing}, is_new_episode=turn.state.images == 0
        )

    async def _call(self, effort: Effort, function: Callable[[Any], Any], argument: Any) -> Any:  # noqa: ANN401
        """Return the function's result, computed in a thread or, where a thread would cost more time, at once."""
        if effort is Effort.NONE:
            return function(argument)
        return await asyncio.get_running_loop().run_in_executor(self._readers[effort], function, argument)

    def _explain(self, error: Exception) -> str:
        """Count a failure and return one line for the client. One that the request did not cause is logged, too."""
        is_of_request = isinstance(error, ValueError) and not isinstance(error, PolicyError)
        self.counters.errors.labels("request" if is_of_request else "server").inc()
        if not is_of_request:
            _LOG.error("a request failed", exc_info=error)
        if isinstance(error, ValueError):
            return " ".join(str(error).split())[:_MAX_REASON]
        return "the server failed at this request. Its log says why. Connect again"

    def _start(self, instruction: Instruction) -> EpisodeState:
        """Start an episode. Text encoders are not made for several threads."""
        with self._encoding:
            return self._policy.start(instruction)


async def _refuse(connection: ServerConnection, reason: str | bytes, code: int = _INTERNAL_ERROR) -> None:
    """Send the reason as a message and close the connection."""
    await connection.send(reason)
    await connection.close(code)


def serve(server: PolicyServer, ready: Callable[[int], None]) -> None:
    """Serve until SIGTERM or SIGINT, in the main thread of a process. An address that is taken raises ``OSError``."""

    async def run() -> None:
        gc.freeze()  # the network's many objects stay. Each collection would take 10 ms to scan them
        gc.set_threshold(700, 10, 1000)  # a full collection among many connections takes 60 ms, so it is rare
        sys.setswitchinterval(_SWITCH_SECONDS)
        await server.run(stop_on_signals(), ready)

    asyncio.run(run())
