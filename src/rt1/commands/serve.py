"""The command ``rt1 serve``."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import tyro

from rt1.checkpoint import load_info
from rt1.policy import Policy
from rt1.serve.settings import ServerSettings
from rt1.text.load import load_text_encoder


@dataclass(frozen=True, kw_only=True)
class ServeCommand:
    """Serve a policy to robots over WebSockets, in openpi's protocol, until SIGTERM or Ctrl-C."""

    checkpoint: tyro.conf.Positional[Path]
    """Checkpoint or run folder."""
    server: tyro.conf.OmitArgPrefixes[ServerSettings] = field(default_factory=ServerSettings)
    """Where it listens and what it lets happen."""
    text_encoder: str | None = None
    """Text encoder: minilm, a table file, or an .onnx file; the one the checkpoint names if not given."""

    def run(self, _command: str) -> int:
        """Serve."""
        try:
            from rt1.serve.server import PolicyServer, serve
        except ModuleNotFoundError as error:
            raise ValueError(f"rt1 serve needs {error.name}; run: pip install 'rt1[serve]'") from error
        encoder = None if self.text_encoder is None else load_text_encoder(self.text_encoder)
        policy = Policy.from_checkpoint(self.checkpoint, text_encoder=encoder)
        server = PolicyServer(policy, self.server, metadata={"control_rate": load_info(self.checkpoint).control_rate})
        scheme = "ws" if self.server.certificate is None else "wss"
        serve(
            server, lambda port: print(f"serving {self.checkpoint} on {scheme}://{self.server.host}:{port}", flush=True)
        )
        return 0
