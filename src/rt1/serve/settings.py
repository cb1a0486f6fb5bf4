"""Settings of the policy server, and the key and certificate files that they name.

They do not import the server, whose WebSockets are an optional dependency.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rt1.common.json_config import MOST_PORT, check_above, check_at_least, check_between

_MAX_KEY = 4096
"""Bytes of a key. An HTTP header holds no more."""


@dataclass(frozen=True, kw_only=True)
class ServerSettings:
    """Address and limits of a policy server."""

    host: str = "127.0.0.1"
    """Address to listen on, which must not be empty. 0.0.0.0 lets other machines in."""
    port: int = 8000
    """Port to listen on. 0 takes a free one."""
    protocol: Literal["openpi", "vla-eval"] = "openpi"
    """Protocol of the clients: openpi's, which rt1's own client uses, or that of the evaluation harness vla-eval."""
    image_key: str | None = None
    """Key of the image in an observation, such as images/cam_high. Default: image, or the only camera of vla-eval."""
    episode_pause: float = 2.0
    """A pause of so many seconds starts a new episode for a client that never sends reset. 0 turns this off."""
    api_key_file: Path | None = None
    """File with the API key of clients on its first line. No key is required if not given."""
    certificate: Path | None = None
    """PEM file of the TLS certificate chain. Without it connections are not encrypted."""
    private_key: Path | None = None
    """PEM file of the certificate's private key. In the certificate's file if not given."""
    max_sessions: int = 64
    """Connections at a time. Fewer where the machine is too slow for as many within the latency."""
    max_latency: float = 0.3
    """Seconds a request may take when all sessions ask at once. A connection that would make it longer is refused."""
    max_batch: int = 32
    """Largest number of robots in a batch. 1 for no batches."""
    batch_wait: float = 0.002
    """Seconds a step may wait for other robots' steps, to form a batch. A single robot never waits."""
    max_message_mb: float = 8.0
    """Largest message, megabytes."""
    max_memory_mb: float = 256.0
    """Megabytes of messages that all sessions hold together. Beyond it the session that holds most is closed."""
    idle_seconds: float = 600.0
    """A connection without a request for so long is closed."""
    grace_seconds: float = 10.0
    """Seconds to finish open requests when the server stops."""

    def __post_init__(self) -> None:
        if not self.host.strip():
            raise ValueError(f"host is {self.host!r}, must name an address. Give 127.0.0.1, or 0.0.0.0 for a network")
        check_at_least(self, 1, "max_sessions", "max_batch")
        check_above(self, 0, "max_latency", "max_message_mb", "max_memory_mb", "idle_seconds", "grace_seconds")
        check_at_least(self, 0, "max_latency", "max_message_mb", "max_memory_mb", "idle_seconds", "grace_seconds")
        check_at_least(self, 0, "batch_wait", "episode_pause")
        check_between(self, 0, MOST_PORT, "port")
        if self.max_message_mb > self.max_memory_mb:
            raise ValueError(
                f"max_message_mb is {self.max_message_mb}, must be at most max_memory_mb, {self.max_memory_mb}. "
                "Give other numbers"
            )
        if self.private_key is not None and self.certificate is None:
            raise ValueError(f"there is a private key, {self.private_key}, but no certificate. Give both")


def read_key(file: Path) -> bytes:
    """Return the API key on the first line of a file. An empty line raises ``ValueError``."""
    with file.open("rb") as stream:
        key = stream.readline(_MAX_KEY).strip()
    if not key:
        raise ValueError(f"{file} has no API key on its first line. Write one there")
    return key


def server_context(certificate: Path, private_key: Path | None) -> ssl.SSLContext:
    """Return the TLS settings of a server.

    ``certificate`` is the PEM file of the certificate chain, ``private_key`` that of its private key, which is in the
    certificate's file if None. A file without them, or a key that is encrypted, raises ``ValueError``.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    key = private_key or certificate
    for file in (certificate, key):
        file.open("rb").close()  # an error that names the file, as the one below does not

    def refuse() -> str:  # without it OpenSSL asks for the password on the terminal
        raise ValueError(f"{key} is encrypted. Give a private key without a password, readable by the server alone")

    try:
        context.load_cert_chain(certificate, key, password=refuse)
    except ssl.SSLError as error:
        raise ValueError(
            f"{certificate} and {key} do not hold a PEM certificate and its private key ({error.reason}). "
            "Give a certificate and a private_key that belong together"
        ) from error
    return context
