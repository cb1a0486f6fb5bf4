"""The robot's side of a policy server: numpy, msgpack and websockets, no torch."""

from __future__ import annotations

import logging
import ssl
import threading
import time
from contextlib import suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray
from websockets.exceptions import ConnectionClosed, InvalidStatus, InvalidURI, WebSocketException
from websockets.sync.client import ClientConnection, connect

from rt1.actions import ActionSpec, FloatArray
from rt1.errors import ClientError, LateReplyError, ProtocolError
from rt1.serve import protocol

_LOG = logging.getLogger(__name__)
_TOO_LARGE = 1009


class Client:
    """One robot's connection to a policy server. Not thread-safe."""

    def __init__(
        self, url: str, *, api_key: str | None = None, timeout: float = 10.0, tls: ssl.SSLContext | None = None
    ) -> None:
        """Connect.

        Args:
            url: ``ws://host:port`` or ``wss://host:port``.
            api_key: the key that the server asks for, if it does.
            timeout: seconds until an unanswered request, or connecting, fails.
            tls: certificates to trust for ``wss``, those of the system if None.

        Raises:
            ClientError: nothing answers there, it refuses, or it is no RT-1 server.
        """
        if not timeout > 0:
            raise ValueError(f"timeout is {timeout}, must be above 0 seconds")
        self.url, self.timeout = url, timeout
        self.metadata: dict[str, Any] = {}
        """What the server says of itself."""
        self.server_timing: dict[str, float] = {}
        """Milliseconds the server says the last request took: ``infer_ms``, ``prev_total_ms``."""
        self._headers = {} if api_key is None else {"Authorization": f"Api-Key {api_key}"}
        self._tls = tls
        self._instruction: str | NDArray[np.float32] | None = None
        self._connection: ClientConnection | None = None
        self._connect()

    @property
    def connected(self) -> bool:
        """False after a failure, until :meth:`reset` or :meth:`reconnect`."""
        return self._connection is not None

    @property
    def action_spec(self) -> ActionSpec:
        """Dimensions, bounds and bins of the actions."""
        return self._action_spec

    def reset(self, instruction: str | NDArray[np.float32]) -> None:
        """Start a new episode with an instruction, a sentence or its text embedding. Connects again where needed.

        An instruction that the server refuses, or a server that cannot be reached, raises ``ClientError``.
        """
        if self._connection is None:
            self._connect()
        self._instruction = None
        self._request({"reset": True, "instruction": instruction})
        self._instruction = instruction

    def reconnect(self) -> None:
        """Connect again and start a new episode with the last instruction. The images before are forgotten.

        A server that cannot be reached raises ``ClientError``.
        """
        if self._instruction is None:
            raise ClientError("there is no episode to continue. Call reset(instruction)")
        self.close()
        self.reset(self._instruction)
        _LOG.warning("connected to %s again: a new episode, without the images before", self.url)

    def act(self, image: NDArray[np.uint8] | bytes) -> dict[str, NDArray[Any]]:
        """Return the action for a new image, by part name.

        Args:
            image: RGB uint8 (H, W, 3), any size, or the bytes of a JPEG or PNG.

        Returns:
            Physical units: float32 (n,), one-hot int32 (choices,) for a choice.

        Raises:
            LateReplyError: no reply within the timeout.
            ClientError: any other failure. After either, call :meth:`reconnect` or :meth:`reset`.
        """
        return self._action_spec.to_dict(self.act_vector(image))

    def act_vector(self, image: NDArray[np.uint8] | bytes) -> FloatArray:
        """Return the action for a new image as float32 (A,), physical units. As :meth:`act`."""
        if self._instruction is None:
            raise ClientError("act() was called before reset(). Call reset(instruction) at the start of an episode")
        actions = self._request({"image": image}).get("actions")
        shape = (1, self._action_spec.size)
        if not isinstance(actions, np.ndarray) or actions.dtype != np.float32 or actions.shape != shape:
            self._drop()
            raise ClientError(f"{self.url} answered without actions of shape {shape}. Is it an RT-1 server?")
        return actions[0].copy()

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _connect(self) -> None:
        try:
            self._connection = connect(
                self.url,
                additional_headers=self._headers,
                open_timeout=self.timeout,
                close_timeout=1.0,
                compression=None,
                max_size=None,
                proxy=None,
                ssl=self._tls,
            ).__enter__()  # closed by close() or _drop()
        except InvalidStatus as error:
            body = (error.response.body or b"").decode(errors="replace").strip()
            raise ClientError(
                f"{self.url} refused: HTTP {error.response.status_code}, {body or 'no reason'}"
            ) from error
        except ssl.SSLCertVerificationError as error:  # a ValueError, too
            raise ClientError(f"{self.url} cannot be trusted: {error}. Give its authority as tls") from error
        except (InvalidURI, ValueError) as error:
            raise ClientError(f"{self.url} is not an address. Give ws://host:port or wss://host:port") from error
        except (OSError, WebSocketException) as error:
            raise ClientError(f"{self.url} cannot be reached: {error}. Is the server running?") from error
        self.metadata = self._exchange(None)
        try:
            self._action_spec = ActionSpec.from_json(self.metadata["action_spec"])
        except (KeyError, TypeError, ValueError) as error:
            self._drop()
            raise ClientError(f"{self.url} does not say which actions it gives. Is it an RT-1 server?") from error

    def _request(self, observation: dict[str, Any]) -> dict[str, Any]:
        reply = self._exchange(protocol.encode(observation))  # encoded first: a wrong type costs no episode
        timing = reply.get("server_timing")
        self.server_timing = timing if isinstance(timing, dict) else {}
        return reply

    def _exchange(self, message: bytes | None) -> dict[str, Any]:
        """Send a message, if there is one, and return the map that comes back. Any failure ends the connection."""
        connection = self._connection
        if connection is None:
            raise ClientError(f"the connection to {self.url} is closed. Call reconnect() for a new episode")
        deadline = time.monotonic() + self.timeout
        try:
            if message is not None:
                _send(connection, message, self.timeout)
            reply = connection.recv(timeout=max(0.0, deadline - time.monotonic()))
            return self._read(reply)
        except TimeoutError as error:
            self._drop()
            raise LateReplyError(
                f"{self.url} did not answer within {self.timeout:g} s. The connection is closed so that a late reply "
                "is not taken for the next. Call reconnect() for a new episode"
            ) from error
        except (ConnectionClosed, ProtocolError) as error:
            reason = _reason(connection, error)
            self._drop()
            raise ClientError(f"{self.url} {reason}") from error
        except BaseException:
            self._drop()  # also when interrupted: the reply on its way would be taken for the next one's
            raise

    def _read(self, reply: str | bytes) -> dict[str, Any]:
        if isinstance(reply, str):
            raise ClientError(f"{self.url} refused: {reply}")
        value = protocol.decode(reply)
        if not isinstance(value, dict):
            raise ProtocolError(f"a {type(value).__name__} came instead of a map")
        return value

    def _drop(self) -> None:
        """End the connection at once, without the other side's consent, which would take its time."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(OSError):
                connection.socket.shutdown(2)
            connection.close()


def _reason(connection: ClientConnection, error: Exception) -> str:
    """Return why a connection ended. The server may have sent its reason while we were still sending."""
    if isinstance(error, ConnectionClosed):
        with suppress(ConnectionClosed, TimeoutError):
            message = connection.recv(timeout=0)
            if isinstance(message, str):
                return f"refused: {message}"
        if error.rcvd is not None and error.rcvd.code == _TOO_LARGE:
            return "refused: the message is larger than it takes. Send JPEG bytes or a smaller image"
    return f"is gone and the connection is lost: {error}. Call reconnect() for a new episode"


def _send(connection: ClientConnection, message: bytes, timeout: float) -> None:
    """Send within a time: a server that stops reading must not hold a robot."""
    expired = threading.Event()

    def give_up() -> None:
        expired.set()
        with suppress(OSError):
            connection.socket.shutdown(2)

    timer = threading.Timer(timeout, give_up)
    timer.start()
    try:
        connection.send(message)
    except ConnectionClosed as error:
        if expired.is_set():
            raise TimeoutError("sending took too long") from error
        raise
    finally:
        timer.cancel()
