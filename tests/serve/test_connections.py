"""Places and memory of connections: those that ask nothing, or hold most, give way to those that ask."""

from __future__ import annotations

import logging
import socket
from base64 import b64encode
from collections.abc import Callable
from contextlib import ExitStack, suppress
from http.client import HTTPConnection
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from websockets.exceptions import ConnectionClosed
from websockets.frames import Frame, Opcode
from websockets.sync.client import ClientConnection, connect

from rt1.errors import ClientError
from rt1.serve import connections
from rt1.serve.client import Client
from rt1.serve.protocol import encode

DRAWER = "open the drawer"
Start = Callable[..., Any]
Images = NDArray[np.uint8]


def _silent(stack: ExitStack, url: str) -> ClientConnection:
    connection = stack.enter_context(connect(url, compression=None, close_timeout=0.1, ping_interval=None))
    connection.recv(timeout=20)
    return connection


def _close_code(connection: ClientConnection) -> int:
    with suppress(ConnectionClosed):
        while True:
            connection.recv(timeout=20)
    return connection.close_code or 0


def _metric(port: int, name: str) -> float:
    http = HTTPConnection("127.0.0.1", port, timeout=20)
    http.request("GET", "/metrics")
    lines = http.getresponse().read().decode().splitlines()
    http.close()
    return next(float(line.split()[1]) for line in lines if line.startswith(f"{name} "))


def test_idle_connections_give_their_places_to_robots_the_oldest_first(start: Start, images: Images) -> None:
    running = start(max_sessions=3)
    with ExitStack() as stack:
        robot = stack.enter_context(Client(running.url))
        robot.reset(DRAWER)
        oldest, other = _silent(stack, running.url), _silent(stack, running.url)
        newcomer = stack.enter_context(Client(running.url))
        newcomer.reset(DRAWER)
        assert _close_code(oldest) == 1013
        for client in (robot, newcomer):
            assert client.act_vector(images[0]).shape == (3,)
        other.send(encode({"reset": True, "prompt": DRAWER}))
        assert isinstance(other.recv(timeout=20), bytes)
        assert _metric(running.port, "rt1_active_sessions") == 3
        with pytest.raises(ClientError, match="HTTP 503, the server has its 3 sessions"):
            Client(running.url)


def test_a_robot_that_asked_nothing_for_long_gives_its_place(
    start: Start, images: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    running = start(max_sessions=1)
    with Client(running.url) as paused:
        paused.reset(DRAWER)
        monkeypatch.setattr(connections, "ACTIVE_SECONDS", 0.0)
        with Client(running.url) as newcomer:
            newcomer.reset(DRAWER)
            assert newcomer.act_vector(images[0]).shape == (3,)
        with pytest.raises(ClientError, match="another robot needs the place"):
            paused.act_vector(images[0])


def test_an_idle_connection_counts_for_the_capacity_once_it_asks(start: Start, images: Images) -> None:
    running = start(max_latency=1e-9)  # one is always carried
    with Client(running.url) as idle, Client(running.url) as robot:
        robot.reset(DRAWER)
        with pytest.raises(ClientError, match="too busy for another session: it has 1 and"):
            idle.reset(DRAWER)
        assert robot.act_vector(images[0]).shape == (3,)


def test_unfinished_messages_share_one_memory_and_the_largest_gives_way(
    start: Start, images: Images, caplog: pytest.LogCaptureFixture
) -> None:
    running = start(max_message_mb=1.0, max_memory_mb=2.0)
    header = bytes([0x82, 0xFF]) + (10**6).to_bytes(8, "big") + bytes(4)
    with ExitStack() as stack:
        robot = stack.enter_context(Client(running.url))
        robot.reset(DRAWER)
        hoarders = [_silent(stack, running.url) for _ in range(3)]
        for hoarder, size in zip(hoarders, (800_000, 990_000, 500_000), strict=True):
            with suppress(OSError):
                hoarder.socket.sendall(header + bytes(size))
            assert robot.act_vector(images[0]).shape == (3,)
        assert _close_code(hoarders[1]) == 1013
        assert _metric(running.port, "rt1_held_bytes") == 1_300_000
    assert len([record for record in caplog.records if record.levelno >= logging.WARNING]) == 1


@pytest.mark.parametrize("frames", [(Opcode.PING, b""), (Opcode.PONG, b"a" * 125)])
def test_a_flood_of_small_frames_ends_its_own_connection_only(
    start: Start, images: Images, frames: tuple[Opcode, bytes]
) -> None:
    running = start()
    with ExitStack() as stack:
        robot = stack.enter_context(Client(running.url))
        robot.reset(DRAWER)
        flooding = _silent(stack, running.url)
        with suppress(OSError):
            flooding.socket.sendall(20_000 * Frame(*frames).serialize(mask=True))
        assert robot.act_vector(images[0]).shape == (3,)
        assert _close_code(flooding) in (1006, 1008)  # 1006: it was cut off while it sent


def test_tcp_connections_that_say_nothing_are_cut_off_the_oldest_first(
    start: Start, images: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "MAX_HANDSHAKES", 3)
    running = start()
    with ExitStack() as stack:
        strangers = [
            stack.enter_context(socket.create_connection(("127.0.0.1", running.port), timeout=20)) for _ in range(5)
        ]
        for stranger in strangers[:2]:
            with suppress(ConnectionResetError):
                assert stranger.recv(1) == b""
        with Client(running.url) as robot:
            robot.reset(DRAWER)
            assert robot.act_vector(images[0]).shape == (3,)


def test_an_answered_request_is_held_no_longer(start: Start, images: Images) -> None:
    running = start()
    with Client(running.url) as robot:
        robot.reset(DRAWER)
        for image in images:
            robot.act_vector(image)
        assert _metric(running.port, "rt1_held_bytes") == 0


def _send_on(connection: socket.socket) -> None:
    for _ in range(256):
        connection.sendall(bytes(1 << 20))


def test_a_refused_client_that_sends_on_is_cut_off(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "CLOSE_SECONDS", 0.05)
    upgrade = b"Host: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    with socket.create_connection(("127.0.0.1", start(max_message_mb=1.0).port), timeout=20) as stubborn:
        key = b"Sec-WebSocket-Key: " + b64encode(bytes(16))
        stubborn.sendall(b"GET / HTTP/1.1\r\n" + upgrade + key + b"\r\n\r\n")
        assert b" 101 " in stubborn.recv(4096)
        stubborn.sendall(bytes([0x82, 0xFF]) + (10**9).to_bytes(8, "big") + bytes(4))
        with pytest.raises(OSError, match=r"reset|Broken pipe"):
            _send_on(stubborn)
