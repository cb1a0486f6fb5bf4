"""The command ``rt1 serve``."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import tyro

from rt1.commands.policy_options import CheckpointPath, EmbodimentName, EncoderName
from rt1.policy.exported import is_export, stored_table
from rt1.policy.open import describe, policy_folder
from rt1.policy.policy import ActingSettings, Policy
from rt1.serve.settings import ServerSettings
from rt1.text.encoder import TextEncoder, TextEncoderIdentity
from rt1.text.load import load_identified, load_text_encoder

if TYPE_CHECKING:
    from rt1.serve.server import PolicyServer


@dataclass(frozen=True, kw_only=True)
class ServeCommand:
    """Serve a policy to robots or benchmarks over WebSockets until SIGTERM or Ctrl-C."""

    checkpoint: CheckpointPath
    server: tyro.conf.OmitArgPrefixes[ServerSettings] = field(default_factory=ServerSettings)
    """Address and limits of the server."""
    embodiment: EmbodimentName = None
    acting: tyro.conf.OmitArgPrefixes[ActingSettings] = field(default_factory=ActingSettings)
    """How the network runs."""
    text_encoder: EncoderName = None

    def run(self, _command: str) -> int:
        """Serve."""
        from rt1.serve.server import PolicyServer, serve

        info = describe(self.checkpoint, embodiment=self.embodiment)
        policy = Policy.from_checkpoint(
            self.checkpoint,
            embodiment=self.embodiment,
            text_encoder=self._encoder(info.text_encoder),
            **vars(self.acting),
        )
        server = PolicyServer(policy, self.server, metadata={"control_rate": info.control_rate})
        serve(server, lambda port: print(self._words(server, policy.engine, port), flush=True))
        return 0

    def _words(self, server: PolicyServer, engine: str, port: int) -> str:
        scheme = "ws" if self.server.certificate is None else "wss"
        most, latency = self.server.max_sessions, self.server.max_latency
        return (
            f"serving {self.checkpoint} to {self.server.protocol} clients on {scheme}://{self.server.host}:{port}, "
            f"{server.step_seconds * 1e3:.1f} ms a step with {engine}, room for {server.capacity} of at "
            f"most {most} sessions within {latency:g} s"
        )

    def _encoder(self, identity: TextEncoderIdentity | None) -> TextEncoder | None:
        """Return the text encoder. It is loaded now, so that the first robot does not wait for it."""
        if self.text_encoder is not None:
            return load_text_encoder(self.text_encoder)
        folder = policy_folder(self.checkpoint)
        if identity is None or is_export(folder) or stored_table(folder) is not None:  # which holds its sentences
            return None
        try:
            return load_identified(identity)
        except (ValueError, ModuleNotFoundError) as error:
            # Robots may still send text embeddings. A sentence is refused with the same message.
            print(f"rt1: only text embeddings are accepted, no instructions: {error}", file=sys.stderr)
            return None
