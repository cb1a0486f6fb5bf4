"""A playground that needs no simulator, and a real server of the page on a free loopback port."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import pytest

from rt1.actions import ActionSpec, Continuous
from rt1.model.rt1 import RT1
from rt1.play.playground import Playground
from rt1.play.server import PlayServer
from rt1.policy.policy import Policy
from rt1.text.encoder import TableEncoder

SENTENCES = {
    "near": ("open the drawer", "close the drawer"),
    "far": ("close the drawer",),
    "mute": ("say nothing",),
    "<script>alert(1)</script>": ("open the drawer",),
}


@pytest.fixture
def world(make_suite: Callable[..., Any]) -> Any:
    return make_suite(task_sentences=SENTENCES)


@pytest.fixture
def playground(world: Any, make_network: Callable[..., RT1], table: TableEncoder) -> Playground:
    """Four tasks with an untrained policy that looks at three images."""
    spec = ActionSpec(parts=(Continuous(name="move", low=(-1.0,) * 3, high=(1.0,) * 3),), bins=16)
    policy = Policy(make_network(window=3), spec, encode_text=lambda text: table.encode([text])[0])
    return Playground(policy, world, tuple(SENTENCES))


@pytest.fixture
def read_view() -> Callable[[bytes], dict[str, Any]]:
    """Read the JSON of a view."""
    return lambda message: dict(json.loads(message[4 : 4 + int.from_bytes(message[:4], "big")]))


@dataclass(kw_only=True)
class RunningPage:
    """The page's server and the means to stop it."""

    port: int
    loop: asyncio.AbstractEventLoop
    stop_event: asyncio.Event
    thread: threading.Thread = field(repr=False)

    @property
    def origin(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def live(self) -> str:
        return f"ws://127.0.0.1:{self.port}/live"

    def stop(self) -> None:
        if self.thread.is_alive():
            self.loop.call_soon_threadsafe(self.stop_event.set)
        self.thread.join(timeout=20)
        assert not self.thread.is_alive()


@pytest.fixture
def served(playground: Playground) -> Iterator[RunningPage]:
    """The playground on a page."""
    server = PlayServer(playground, title="a checkpoint")
    server.open()
    found: Future[tuple[int, asyncio.AbstractEventLoop, asyncio.Event]] = Future()

    async def run() -> None:
        stop = asyncio.Event()
        await server.run(stop, lambda port: found.set_result((port, asyncio.get_running_loop(), stop)))

    thread = threading.Thread(target=asyncio.run, args=(run(),), name="page")
    thread.start()
    port, loop, stop = found.result(timeout=20)
    running = RunningPage(port=port, loop=loop, stop_event=stop, thread=thread)
    yield running
    running.stop()
