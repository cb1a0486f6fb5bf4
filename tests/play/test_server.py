"""The server of the page: what each tab gets, who is kept out, and its end."""

from __future__ import annotations

import json
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import replace
from http.client import HTTPConnection
from typing import Any

import numpy as np
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from rt1.actions import FloatArray
from rt1.envs.base import Observation, StepResult
from rt1.play.playground import Playground
from rt1.play.server import PlayServer

ReadView = Callable[[bytes], dict[str, Any]]


class Tab:
    """What a browser's tab does."""

    def __init__(self, connection: ClientConnection, read_view: ReadView) -> None:
        self.connection = connection
        self._read_view = read_view

    def ask(self, command: str, value: Any = None) -> None:
        self.connection.send(json.dumps({"command": command, "value": value}))

    def until(self, condition: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """Wait for a view."""
        while True:
            message = self.connection.recv(timeout=20)
            if isinstance(message, bytes) and condition(view := self._read_view(message)):
                return view

    def until_closed(self) -> int:
        """Wait for the end; return its code."""
        with suppress(ConnectionClosed):
            while True:
                self.connection.recv(timeout=20)
        return self.connection.close_code or 0


@pytest.fixture
def open_tab(served: Any, read_view: ReadView) -> Iterator[Callable[[], Tab]]:
    with ExitStack() as tabs:
        yield lambda: Tab(
            tabs.enter_context(
                connect(served.live, origin=served.origin, compression=None, proxy=None, max_queue=1, close_timeout=0.1)
            ),
            read_view,
        )


def _is_running(view: dict[str, Any]) -> bool:
    return bool(view["phase"] == "running" and view["step"] > 0)


def test_a_tab_gets_the_facts_then_the_newest_view(served: Any, read_view: ReadView) -> None:
    with connect(served.live, origin=served.origin, proxy=None) as connection:
        facts, view = connection.recv(timeout=20), connection.recv(timeout=20)
    assert isinstance(facts, str)
    assert isinstance(view, bytes)
    assert json.loads(facts)["title"] == "a checkpoint"
    assert read_view(view)["phase"] == "stopped"


def test_every_tab_watches_and_drives_the_same_run(open_tab: Callable[[], Tab]) -> None:
    one, two = open_tab(), open_tab()
    one.ask("start")
    two.until(_is_running)
    two.ask("stop")
    stopped = one.until(lambda view: view["phase"] == "stopped" and view["step"] > 0)
    assert two.until(lambda view: view["phase"] == "stopped" and view["step"] > 0)["step"] == stopped["step"]
    one.connection.close()
    two.ask("instruct", "close the drawer")
    assert two.until(lambda view: view["instruction"] == "close the drawer")["remembered"] == 0


def test_a_tab_that_reads_nothing_holds_up_nobody(world: Any, open_tab: Callable[[], Tab]) -> None:
    env = world.opened[0]
    env.max_steps, step = 60, env.step
    noise = np.random.default_rng(0).integers(0, 256, (400, 400, 3), dtype=np.uint8)  # more than sockets keep

    def noisy(action: FloatArray) -> StepResult:
        return replace(step(action), observation=Observation(image=noise), success=False)

    env.step = noisy
    asleep, awake = open_tab(), open_tab()
    awake.ask("speed", 20.0)
    awake.ask("start")
    end = awake.until(lambda view: view["phase"] == "over")
    assert asleep.until(lambda view: view["phase"] == "over")["step"] == end["step"]


@pytest.mark.parametrize("message", ["not json", '{"command": "dance"}', b"\x00", "x" * 10_000])
def test_what_is_no_command_ends_that_connection_alone(
    served: Any, open_tab: Callable[[], Tab], message: str | bytes
) -> None:
    wrong, right = open_tab(), open_tab()
    wrong.connection.send(message)
    assert wrong.until_closed() in (1008, 1009)
    right.ask("start")
    right.until(_is_running)
    assert served.thread.is_alive()


@pytest.mark.parametrize(
    "origin", [None, "http://evil.example", "null", "http://localhost:{port}", "https://127.0.0.1:{port}"]
)
def test_no_other_page_and_no_program_without_an_origin_may_connect(served: Any, origin: Any) -> None:
    if origin is not None:
        origin = origin.format(port=served.port)
    with pytest.raises(InvalidStatus) as refused:
        connect(served.live, origin=origin, proxy=None).close()
    assert refused.value.response.status_code == 403


def _get(port: int, path: str, **headers: str) -> tuple[int, dict[str, str], str]:
    connection = HTTPConnection("127.0.0.1", port, timeout=20)
    connection.request("GET", path, headers=headers)
    response = connection.getresponse()
    body = response.read().decode()
    connection.close()
    return response.status, dict(response.headers), body


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example:80", "localhost@evil.example", "localhost:80:80"]
)
def test_a_name_that_only_leads_here_is_refused(served: Any, host: str) -> None:
    for path in ("/", "/page.js", "/live"):
        assert _get(served.port, path, Host=host)[0] == 403


def test_the_page_may_load_nothing_from_elsewhere(served: Any) -> None:
    for path, kind in (("/", "text/html"), ("/page.css", "text/css"), ("/page.js", "text/javascript")):
        status, headers, body = _get(served.port, path)
        assert (status, headers["Content-Type"].split(";")[0]) == (200, kind)
        assert headers["X-Content-Type-Options"] == "nosniff"
        rules = dict(rule.strip().split(" ", 1) for rule in headers["Content-Security-Policy"].split(";"))
        assert rules == {
            "default-src": "'none'",
            "script-src": "'self'",
            "style-src": "'self'",
            "img-src": "data:",
            "connect-src": f"ws://127.0.0.1:{served.port}",
            "base-uri": "'none'",
            "form-action": "'none'",
            "frame-ancestors": "'none'",
        }
        assert "//" not in body.replace("ws://${location.host}", "").replace("// ", "")


def test_there_is_nothing_else_to_be_had(served: Any) -> None:
    for path in ("/favicon.ico", "/page.html", "/../server.py", "/%2e%2e/server.py", "/live/", "//"):
        assert _get(served.port, path)[0] == 404


def test_half_a_request_and_a_lost_connection_leave_it_alive(served: Any, open_tab: Callable[[], Tab]) -> None:
    with socket.create_connection(("127.0.0.1", served.port)) as half:
        half.send(b"GET / HT")
    tab = open_tab()
    tab.connection.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    tab.connection.socket.close()  # a reset, as when a browser is killed
    other = open_tab()
    other.ask("start")
    other.until(_is_running)
    assert served.thread.is_alive()


def test_the_end_closes_tabs_and_environment_in_the_middle_of_a_run(
    served: Any, world: Any, open_tab: Callable[[], Tab]
) -> None:
    tab = open_tab()
    tab.ask("start")
    tab.until(_is_running)
    served.stop()
    assert tab.until_closed() == 1001
    assert world.opened[0].closed
    assert not any(thread.name == "rt1-play" for thread in threading.enumerate())


def test_the_event_loop_answers_while_the_simulator_is_busy(
    served: Any, world: Any, open_tab: Callable[[], Tab]
) -> None:
    busy, go_on = threading.Event(), threading.Event()
    step = world.opened[0].step

    def slow(action: Any) -> Any:
        busy.set()
        assert go_on.wait(timeout=20)
        return step(action)

    world.opened[0].step = slow
    tab = open_tab()
    tab.ask("start")
    assert busy.wait(timeout=20)
    assert _get(served.port, "/")[0] == 200
    go_on.set()
    tab.until(_is_running)


@pytest.mark.parametrize("port", [-1, 1 << 16])
def test_a_port_that_is_none_is_refused(playground: Playground, port: int) -> None:
    with pytest.raises(ValueError, match="port"):
        PlayServer(playground, title="x", port=port)


@pytest.mark.parametrize("twice", [b"Host", b"Origin"])
def test_a_header_sent_twice_is_refused_with_one_line_in_the_log(
    served: Any, twice: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    host = b"Host: 127.0.0.1\r\n"
    with socket.create_connection(("127.0.0.1", served.port), timeout=20) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\n" + host + 2 * (twice + b": 127.0.0.1\r\n") + b"\r\n")
        assert connection.makefile("rb").readline() == b"HTTP/1.1 400 Bad Request\r\n"
    assert len(caplog.records) == 1
    assert "Traceback" not in caplog.text


@pytest.mark.parametrize("name", ["ü" * 200, "\ud800"])
def test_a_command_of_strange_letters_is_refused_without_a_traceback(
    open_tab: Callable[[], Tab], name: str, caplog: pytest.LogCaptureFixture
) -> None:
    tab = open_tab()
    tab.ask(name)
    assert tab.until_closed() == 1008
    assert "Traceback" not in caplog.text
