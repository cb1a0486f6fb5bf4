"""The connections of a server: the bytes that each one holds, and which one is closed for a new client."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from websockets.asyncio.server import ServerConnection
from websockets.frames import Frame, Opcode
from websockets.http11 import Request

ACTIVE_SECONDS = 60.0
"""A session without a request for so long may be closed for a new client."""
CLOSE_SECONDS = 1.0
"""A connection that does not close by itself is cut off after so long."""
MAX_HANDSHAKES = 256
"""Connections without a session. Beyond it the oldest is cut off."""
MAX_SMALL_FRAMES = 256
"""Small frames a second that a connection may send between two requests."""
READ_SIZE = 1 << 16
"""Bytes of one connection that are read before the next one's."""
_SMALL_FRAME = 1024
_SLICE = 1024
_POLICY_VIOLATION, _TRY_LATER = 1008, 1013
_DATA = (Opcode.TEXT, Opcode.BINARY, Opcode.CONT)
_LOG = logging.getLogger(__name__)


def repeated_header(request: Request, *names: str) -> str | None:
    """Return one line about the first of these headers that a request has more than once, and log it. None if none."""
    for name in names:
        if (count := len(request.headers.get_all(name))) > 1:
            _LOG.warning("a request with %d %s headers was refused", count, name)
            return f"the request has {count} {name} headers. Send one\n"
    return None


class Connection(ServerConnection):
    """A connection that counts its bytes and stores the time of its last request."""

    def __init__(self, connections: Connections, *args: Any, **options: Any) -> None:  # noqa: ANN401 (websockets')
        super().__init__(*args, **options)
        self.is_busy = False
        """Whether a request is under way."""
        self._connections = connections
        self._last_request = float("-inf")
        self._frames = self._small_frames = 0
        self._counted_since = 0.0
        self._unanswered = 0
        self.has_session = False
        self.counted = 0
        """The bytes of it that :class:`Connections` counts."""

    @property
    def held(self) -> int:
        """Bytes received and not yet answered, and bytes to be sent."""
        return self._unanswered + len(self.protocol.reader.buffer) + self.transport.get_write_buffer_size()

    @property
    def idle_seconds(self) -> float:
        """Seconds since the last request. Infinite before the first one."""
        return 0.0 if self.is_busy else self.loop.time() - self._last_request

    def begin(self) -> None:
        self.is_busy, self._last_request, self._small_frames = True, self.loop.time(), 0

    def end(self, size: int) -> None:
        """Note that a request of so many bytes is answered."""
        self.is_busy = False
        self._unanswered -= size
        self._connections.weigh(self)

    def drop(self, code: int, reason: str) -> None:
        """Close the connection without waiting for the other side."""
        self._connections.remove(self)
        self.protocol.fail(code, reason)
        self.protocol.reader.discard()
        self.send_data()
        self.loop.call_later(CLOSE_SECONDS, self.transport.abort)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        transport.max_size = READ_SIZE  # type: ignore[attr-defined]  # asyncio's own, which reads 256 KiB otherwise
        self._connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._connections.remove(self)

    def data_received(self, data: bytes) -> None:
        if self.protocol.eof_sent and len(data) > _SMALL_FRAME:  # it was refused, and sends on
            self.transport.pause_reading()
            self.loop.call_later(CLOSE_SECONDS, self.transport.abort)
            return
        # Many tiny frames in one read would hold up the event loop; a slice of them is enough to notice.
        start, size = 0, _SLICE
        while start < len(data) and self in self._connections:
            frames = self._frames
            super().data_received(data[start : start + size])
            start += size
            size = 2 * size if self._frames == frames else _SLICE
        self._connections.weigh(self)

    def process_event(self, event: Request | Frame) -> None:  # type: ignore[override]
        if isinstance(event, Frame):
            self._frames += 1
            if event.opcode in _DATA:
                self._unanswered += len(event.data)
            if len(event.data) < _SMALL_FRAME:
                self._count_small_frame()
        super().process_event(event)

    def _count_small_frame(self) -> None:
        if self.loop.time() - self._counted_since > 1.0:
            self._small_frames, self._counted_since = 0, self.loop.time()
        self._small_frames += 1
        if self._small_frames > MAX_SMALL_FRAMES and self in self._connections:
            self.drop(_POLICY_VIOLATION, f"more than {MAX_SMALL_FRAMES} small frames came without a request")


class Connections:
    """All connections of one server. Belongs to its event loop."""

    def __init__(self, *, max_sessions: int, max_bytes: float) -> None:
        """Start empty, with limits on the sessions and on the bytes that all connections hold together."""
        self._max_sessions, self._max_bytes = max_sessions, max_bytes
        self._open: dict[Connection, None] = {}
        self.held = 0
        """Bytes that all connections hold."""

    def __contains__(self, connection: object) -> bool:
        return connection in self._open

    @property
    def sessions(self) -> list[Connection]:
        return [connection for connection in self._open if connection.has_session]

    @property
    def active(self) -> int:
        """Sessions with a request in the last ACTIVE_SECONDS."""
        return sum(session.idle_seconds < ACTIVE_SECONDS for session in self.sessions)

    def add(self, connection: Connection) -> None:
        self._open[connection] = None
        handshakes = [other for other in self._open if not other.has_session]
        if len(handshakes) > MAX_HANDSHAKES:
            self.remove(handshakes[0])
            handshakes[0].transport.abort()

    def start_session(self, connection: Connection) -> None:
        """Start a session. If all are taken, close the session that has been idle for longest."""
        if len(self.sessions) >= self._max_sessions:
            longest = max(self.sessions, key=lambda session: session.idle_seconds)
            longest.drop(_TRY_LATER, "another robot needs the place of this idle connection. Connect again")
        connection.has_session = True

    def remove(self, connection: Connection) -> None:
        if connection in self._open:
            del self._open[connection]
            self.held -= connection.counted

    def weigh(self, connection: Connection) -> None:
        """Update the bytes of a connection. While all hold too much, drop the one that holds most."""
        if connection not in self._open:
            return
        self.held += connection.held - connection.counted
        connection.counted = connection.held
        while self.held > self._max_bytes:
            largest = max(self._open, key=lambda other: other.counted)
            _LOG.warning("a connection was closed: all hold %d bytes, it alone %d", self.held, largest.counted)
            largest.drop(
                _TRY_LATER, "all connections hold more than max_memory_mb, this one most. Send smaller messages"
            )
