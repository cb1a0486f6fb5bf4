"""A real server on a free loopback port, in a thread of its own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from rt1.actions import ActionSpec, Continuous, FloatArray
from rt1.model.rt1 import RT1
from rt1.policy import Policy
from rt1.serve.server import PolicyServer
from rt1.serve.settings import ServerSettings
from rt1.text.encoder import TableEncoder


@dataclass(kw_only=True)
class RunningServer:
    """A server and the means to stop it."""

    server: PolicyServer
    port: int
    url: str
    loop: asyncio.AbstractEventLoop
    stop_event: asyncio.Event
    thread: threading.Thread = field(repr=False)

    def stop(self) -> None:
        """Tell it to stop, as SIGTERM does."""
        self.loop.call_soon_threadsafe(self.stop_event.set)

    def join(self) -> None:
        self.thread.join(timeout=20)
        assert not self.thread.is_alive()


class LogitPolicy(Policy):
    """Gives logits in place of actions: unlike these, they show each image, its place in the window and the words."""

    def with_own_memory(self) -> Policy:
        return LogitPolicy(self.model, self.action_spec, encode_text=self._encode_text)

    def act_vector(self, image: NDArray[Any]) -> FloatArray:
        return self.logits(image)[:, 0]


@pytest.fixture
def policy(make_network: Callable[..., RT1], table: TableEncoder) -> Policy:
    move = Continuous(name="move", low=(-1.0,) * 3, high=(1.0,) * 3)
    spec = ActionSpec(parts=(move,), bins=16)
    return LogitPolicy(make_network(window=3), spec, encode_text=lambda text: table.encode([text])[0])


@pytest.fixture
def start(policy: Policy) -> Iterator[Callable[..., RunningServer]]:
    """Start a server with these settings, of the policy of this test or of another one."""
    running: list[RunningServer] = []

    def launch(other: Policy | None = None, **choices: Any) -> RunningServer:
        server = PolicyServer(other or policy, ServerSettings(port=0, **choices), metadata={"control_rate": 4.0})
        found: Future[tuple[int, asyncio.AbstractEventLoop, asyncio.Event]] = Future()

        async def run() -> None:
            stop = asyncio.Event()
            await server.run(stop, lambda port: found.set_result((port, asyncio.get_running_loop(), stop)))

        thread = threading.Thread(target=asyncio.run, args=(run(),), name="server")
        thread.start()
        port, loop, stop = found.result(timeout=20)
        running.append(
            RunningServer(
                server=server, port=port, url=f"ws://127.0.0.1:{port}", loop=loop, stop_event=stop, thread=thread
            )
        )
        return running[-1]

    yield launch
    for each in running:
        if each.thread.is_alive():
            each.stop()
        each.join()


@pytest.fixture
def images() -> NDArray[np.uint8]:
    """Five images of coarse patches, uint8 (5, 40, 56, 3)."""
    coarse = np.random.default_rng(2).integers(0, 256, (5, 5, 7, 3), dtype=np.uint8)
    return coarse.repeat(8, axis=1).repeat(8, axis=2)
