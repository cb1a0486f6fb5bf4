"""A real server on a free loopback port, in a thread of its own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import trustme
from numpy.typing import NDArray

from rt1.actions import ActionSpec, Continuous, FloatArray
from rt1.model.rt1 import RT1
from rt1.policy.policy import Policy
from rt1.policy.stepper import EpisodeState, PreparedImage, Stepper
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


FINE = 1 << 16
"""Bins of the actions in these tests."""


class FineStepper(Stepper):
    """Shows a logit in each action, finely: unlike tokens, it tells images, their places and instructions apart."""

    def step(self, states: Sequence[EpisodeState], images: Sequence[NDArray[Any] | PreparedImage]) -> FloatArray:
        shown_SA = np.tanh(super().step(states, images)[..., 0])
        token_SA = np.round((shown_SA + 1) / 2 * (FINE - 1)).astype(np.int64)
        logits_SAV = np.zeros((*token_SA.shape, FINE), np.float32)
        np.put_along_axis(logits_SAV, token_SA[..., None], 1.0, axis=-1)
        return logits_SAV


class BlockedStepper(FineStepper):
    """From :meth:`block` on it waits in each step until it is let go; it may also break."""

    def __init__(self, model: RT1) -> None:
        super().__init__(model)
        self.entered, self.go = threading.Semaphore(0), threading.Semaphore(0)
        self.sizes: list[int] = []
        """Robots in each step so far."""
        self.fails_at: NDArray[np.uint8] | None = None
        """The image that breaks every step it is in, after the episodes have changed."""
        self.no_numbers_at: NDArray[np.uint8] | None = None
        """The image whose logits are not finite."""
        self._blocking = False

    def block(self) -> None:
        self._blocking = True

    def let_go(self) -> None:
        """Wait no more, now and later."""
        self._blocking = False
        self.go.release()

    def step(self, states: Sequence[EpisodeState], images: Sequence[NDArray[Any] | PreparedImage]) -> FloatArray:
        self.sizes.append(len(states))
        if self._blocking:
            self.entered.release()
            assert self.go.acquire(timeout=20)
        logits_SAV = super().step(states, images)
        if any(np.array_equal(image, self.fails_at) for image in images if self.fails_at is not None):
            raise RuntimeError("the accelerator is on fire")
        if self.no_numbers_at is not None:
            logits_SAV[[np.array_equal(image, self.no_numbers_at) for image in images]] = np.nan
        return logits_SAV


@pytest.fixture(scope="session")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def network(make_network: Callable[..., RT1]) -> RT1:
    return make_network(window=3)


@pytest.fixture
def make_policy(table: TableEncoder) -> Callable[[Stepper], Policy]:
    """Make a policy that knows the sentences of the table."""
    move = Continuous(name="move", low=(-1.0,) * 3, high=(1.0,) * 3)
    spec = ActionSpec(parts=(move,), bins=FINE)
    return lambda stepper: Policy(stepper, spec, encode_text=lambda text: table.encode([text])[0])


@pytest.fixture
def policy(network: RT1, make_policy: Callable[[Stepper], Policy]) -> Policy:
    return make_policy(FineStepper(network))


@pytest.fixture
def blocked(network: RT1) -> Iterator[BlockedStepper]:
    stepper = BlockedStepper(network)
    yield stepper
    stepper.let_go()


@pytest.fixture
def start(policy: Policy) -> Iterator[Callable[..., RunningServer]]:
    """Start a server with these settings, of the policy of this test or of another one."""
    running: list[RunningServer] = []

    def launch(other: Policy | None = None, **choices: Any) -> RunningServer:
        server = PolicyServer(
            other or policy,
            ServerSettings(port=0, **{"max_batch": 4, "max_latency": 60.0, **choices}),
            metadata={"control_rate": 4.0},
        )
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
