"""The policy server: openpi's WebSocket protocol, one session per connection, one network for all.

The event loop keeps the connections. Threads read what came (messages, JPEG, instructions); one more takes the steps of
the network, those of several robots as a batch. New sessions are refused once the machine carries no more: a robot has
one request under way at most, so a bounded number of robots means a bounded latency for each.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import os
import ssl
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from websockets.asyncio.server import Server, ServerConnection
from websockets.asyncio.server import serve as open_server
from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response
from websockets.protocol import State

from rt1.acting import Instruction
from rt1.control import Memory
from rt1.errors import GoneError, ProtocolError
from rt1.policy import Policy
from rt1.serve import protocol
from rt1.serve.batching import Batcher
from rt1.serve.capacity import Capacity, measured_times
from rt1.serve.counters import Counters
from rt1.serve.session import Session, Turn
from rt1.serve.settings import ServerSettings
from rt1.shutdown import stop_on_signals

_LOG = logging.getLogger(__name__)
_MAX_REASON = 500
_INTERNAL_ERROR, _GOING_AWAY, _TRY_LATER = 1011, 1001, 1013
_READERS = min(4, os.cpu_count() or 1)
_CLOSE_SECONDS = 1.0
"""A connection that does not say goodbye is cut off after so long."""
_SHORT = 1 << 20
"""Bytes of a message that is read in well under a millisecond."""
Result = TypeVar("Result")


class PolicyServer:
    """Serves one policy to many robots."""

    def __init__(self, policy: Policy, settings: ServerSettings, *, metadata: dict[str, Any] | None = None) -> None:
        """Read key and certificate; nothing is opened yet.

        Args:
            policy: network and text encoder; its own memory is not used.
            settings: where and how to serve.
            metadata: plain data that each client gets first, besides what the server says of itself.

        Raises:
            ValueError: an empty key, or a file that holds no certificate or not its key.
            OSError: a file that cannot be read.
        """
        self.settings = settings
        self.counters = Counters()
        self._policy = policy
        self._key = None if settings.api_key_file is None else _read_key(settings.api_key_file)
        self._tls = _tls(settings)
        self._window = policy.model.config.window
        own = {"policy": "rt1", "action_spec": policy.action_spec.to_json(), "window": self._window}
        self._metadata = protocol.encode({**(metadata or {}), **own})
        self._readers = ThreadPoolExecutor(_READERS, thread_name_prefix="rt1-read")
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="rt1-step")
        self._encoding = threading.Lock()
        self._idle: set[ServerConnection] = set()
        self._stopping = False

    async def run(self, stop: asyncio.Event, ready: Callable[[int], None]) -> None:
        """Measure the network, serve until ``stop`` is set, finish the requests under way, close all connections.

        Args:
            stop: the order to stop.
            ready: called with the port once connections are taken.
        """
        settings = self.settings
        await self._get_ready()
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
            close_timeout=_CLOSE_SECONDS,
            server_header=None,
        )
        stepping = asyncio.create_task(self._batcher.run())
        try:
            ready(int(next(iter(server.sockets)).getsockname()[1]))
            await stop.wait()
        finally:
            await self._shut_down(server)
            stepping.cancel()

    @property
    def waiting(self) -> int:
        """Steps that wait for the network."""
        return self._batcher.waiting

    @property
    def capacity(self) -> int:
        """Sessions that the machine carries now; known once it serves."""
        return self._capacity.sessions(self.settings.max_sessions)

    @property
    def setting(self) -> str:
        """How the network is run."""
        return self._policy.control.setting

    @property
    def step_seconds(self) -> float:
        """How long the network takes now for one robot's step; known once it serves."""
        return self._capacity.seconds(1)

    async def _get_ready(self) -> None:
        """Measure what the machine carries, which also makes the first robot's first step as fast as the others."""
        settings, control = self.settings, self._policy.control

        def measure() -> dict[int, float]:
            return measured_times(control, max_batch=settings.max_batch, max_latency=settings.max_latency)

        times = await asyncio.get_running_loop().run_in_executor(self._worker, measure)
        self._capacity = Capacity(times, max_latency=settings.max_latency)
        self._batcher = Batcher(
            control, self._capacity, self._worker, max_wait=settings.batch_wait, saw=self.counters.stepped
        )

    async def _shut_down(self, server: Server) -> None:
        self._stopping = True
        server.close(close_connections=False)
        await asyncio.gather(*(connection.close(_GOING_AWAY, "the server stops") for connection in self._idle))
        with suppress(TimeoutError):
            async with asyncio.timeout(self.settings.grace_seconds):
                await server.wait_closed()
        for connection in server.connections:
            connection.transport.abort()
        for pool in (self._worker, self._readers):
            pool.shutdown(wait=False, cancel_futures=True)

    def _screen(self, connection: ServerConnection, request: Request) -> Response | None:
        """Answer plain HTTP, and refuse who has no key or comes when the house is full; None lets a client in."""
        if request.path == "/healthz":
            return connection.respond(200, "OK\n")
        if self._key is not None:
            shown = request.headers.get("Authorization", "").encode()
            if not hmac.compare_digest(shown, b"Api-Key " + self._key):
                self.counters.refused["key"] += 1
                return connection.respond(401, "the API key is missing or wrong\n")
        if request.path == "/metrics":
            self.counters.capacity = self.capacity
            headers = Headers({"Content-Type": "text/plain; version=0.0.4", "Connection": "close"})
            body = self.counters.text().encode()
            headers["Content-Length"] = str(len(body))
            return Response(200, "OK", headers, body)
        refusal = self._refusal()
        return None if refusal is None else connection.respond(503, refusal + "\n")

    def _refusal(self) -> str | None:
        """Return why no further session is taken, and count it; None where one is."""
        here, most, latency = self.counters.sessions, self.settings.max_sessions, self.settings.max_latency
        if self._stopping:
            why, words = "stopping", "the server stops"
        elif here >= most:
            why, words = "full", f"the server has its {most} sessions; close one, or raise max_sessions"
        elif here >= (carried := self.capacity) or self._batcher.oldest_wait() > latency:
            why = "busy"
            words = (
                f"the server is too busy for another session: it has {here} and answers {carried} at once within "
                f"{latency:g} s; try again later, use another server, or raise max_latency"
            )
        else:
            return None
        self.counters.refused[why] += 1
        return words

    async def _serve_session(self, connection: ServerConnection) -> None:
        # Asked again: others may have come in between, while this one shook hands.
        if (refusal := self._refusal()) is not None:
            with suppress(ConnectionClosed):
                await _refuse(connection, refusal, _TRY_LATER)
            return
        self.counters.sessions += 1
        self.counters.sessions_started += 1
        try:
            await connection.send(self._metadata)
            await self._converse(connection, Session(self._start, self._shrink, window=self._window))
        except (ConnectionClosed, GoneError):
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
            try:
                reply = await self._answer(connection, session, message, previous)
            except GoneError:
                raise
            except Exception as error:  # noqa: BLE001 (one session's failure must not reach the others)
                self.counters.errors["request" if isinstance(error, ValueError) else "server"] += 1
                await _refuse(connection, _reason(error))
                return
            await connection.send(reply)
            previous = time.perf_counter() - start
            self.counters.latency.add(previous)
        await connection.close(_GOING_AWAY, "the server stops")

    async def _answer(
        self, connection: ServerConnection, session: Session, message: str | bytes, previous: float | None
    ) -> bytes:
        turn = await self._read(session, message)
        memory, seconds, actions = turn.memory, 0.0, {}
        for image in turn.images:
            stepped = await self._batcher.step(
                connection, memory, image, is_wanted=lambda: connection.state is State.OPEN
            )
            memory, seconds = stepped.memory, seconds + stepped.seconds
            actions = {"actions": self._policy.action_spec.decode(stepped.tokens)[None]}
        session.remember(turn, memory)
        timing = {"infer_ms": 1e3 * seconds}
        if previous is not None:
            timing["prev_total_ms"] = 1e3 * previous
        return protocol.encode({**actions, "server_timing": timing})

    async def _read(self, session: Session, message: str | bytes) -> Turn:
        """Read a request: in a thread what may take long, the rest at once, for a thread costs a robot more time."""
        if isinstance(message, str):
            raise ProtocolError("a text message came; an observation is a binary msgpack message")

        async def in_thread(function: Callable[[Any], Result], argument: Any) -> Result:  # noqa: ANN401
            return await asyncio.get_running_loop().run_in_executor(self._readers, function, argument)

        is_short = len(message) <= _SHORT
        observation = protocol.decode(message) if is_short else await in_thread(protocol.decode, message)
        return (
            session.read(observation) if session.is_quick(observation) else await in_thread(session.read, observation)
        )

    def _start(self, instruction: Instruction) -> Memory:
        """Start an episode; text encoders are not made for several threads."""
        robot = self._policy.with_own_memory()
        with self._encoding:
            robot.reset(instruction)
        return robot.memory

    def _shrink(self, image: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Bring an image to the network's size, float32 in [0, 1], as the control step does with one of that size."""
        with torch.inference_mode():
            image_CHW = self._policy.model.prepare(torch.from_numpy(np.array(image))[None])[0]
            # The clamp takes back rounding above 1.
            return np.ascontiguousarray(image_CHW.clamp(0.0, 1.0).permute(1, 2, 0).numpy())


async def _refuse(connection: ServerConnection, reason: str, code: int = _INTERNAL_ERROR) -> None:
    """Say what is wrong as the protocol wants it: a text message, then the end of the connection."""
    await connection.send(reason)
    await connection.close(code)


def _reason(error: Exception) -> str:
    """Return one line for the robot; what is no fault of the request stays in the server's log."""
    if isinstance(error, ValueError):
        return " ".join(str(error).split())[:_MAX_REASON]
    _LOG.error("a request failed", exc_info=error)
    return "the server failed at this request; its log says why; connect again"


def _read_key(file: Path) -> bytes:
    lines = file.read_text(encoding="utf-8").splitlines()
    if not lines or not lines[0].strip():
        raise ValueError(f"{file} has no API key on its first line; write one there")
    return lines[0].strip().encode()


def _tls(settings: ServerSettings) -> ssl.SSLContext | None:
    if settings.certificate is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    key = settings.private_key or settings.certificate
    for file in (settings.certificate, key):
        file.open("rb").close()  # an error that names the file, as the one below does not
    try:
        context.load_cert_chain(settings.certificate, key)
    except ssl.SSLError as error:
        raise ValueError(
            f"{settings.certificate} and {key} do not hold a PEM certificate and its private key ({error.reason}); "
            "give a certificate and a private_key that belong together"
        ) from error
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
        await server.run(stop_on_signals(), ready)

    asyncio.run(run())
