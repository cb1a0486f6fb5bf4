"""Where a policy server listens and what it lets happen; apart from the server, whose WebSockets are an extra."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class ServerSettings:
    """Where a server listens and what it lets happen."""

    host: str = "127.0.0.1"
    """Address to listen on; 0.0.0.0 lets other machines in."""
    port: int = 8000
    """Port to listen on; 0 takes a free one."""
    api_key_file: Path | None = None
    """File with the key that clients must show, on its first line; no key is asked for if not given."""
    certificate: Path | None = None
    """PEM file of the TLS certificate chain; without it connections are not encrypted."""
    private_key: Path | None = None
    """PEM file of the certificate's private key; in the certificate's file if not given."""
    max_sessions: int = 16
    """Connections at a time; further ones are refused."""
    max_message_mb: float = 64.0
    """Largest message, megabytes."""
    max_wait: float = 1.0
    """Seconds a request may wait for the network before new connections are refused."""
    idle_seconds: float = 600.0
    """A connection without a request for so long is closed."""
    grace_seconds: float = 10.0
    """Time for requests under way when the server is told to stop."""

    def __post_init__(self) -> None:
        for name in ("max_sessions", "max_message_mb", "max_wait", "idle_seconds", "grace_seconds"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be above 0")
        if not 0 <= self.port < 1 << 16:
            raise ValueError(f"port is {self.port}; it must lie in 0..65535")
        if self.private_key is not None and self.certificate is None:
            raise ValueError(f"there is a private key, {self.private_key}, but no certificate; give both")
