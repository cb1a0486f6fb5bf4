"""The command ``rt1 play``."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import tyro

from rt1.checkpoint import load_info
from rt1.common.json_config import MOST_PORT, check_at_least, check_between
from rt1.envs.registry import suite_of
from rt1.play.playground import Playground
from rt1.policy.autotune import ActingSettings
from rt1.policy.policy import Policy
from rt1.text.load import load_text_encoder


@dataclass(frozen=True, kw_only=True)
class PlayCommand:
    """Watch and drive a policy in a simulator, on a web page on this machine, until Ctrl-C."""

    checkpoint: tyro.conf.Positional[Path]
    """Checkpoint or run folder."""
    tasks: tuple[str, ...] = ()
    """Tasks to choose from; those it was trained on if not given."""
    env: str | None = None
    """Environment name; that of the training data if not given."""
    port: int = 8001
    """Port on 127.0.0.1; 0 takes a free one."""
    seed: int = 0
    """Seed of the starts, as for an evaluation."""
    embodiment: str | None = None
    """Which embodiment acts, where the checkpoint has several."""
    acting: tyro.conf.OmitArgPrefixes[ActingSettings] = field(default_factory=ActingSettings)
    """How the network acts."""
    text_encoder: str | None = None
    """Text encoder: minilm, a table file, or an .onnx file; the one the checkpoint names if not given."""

    def __post_init__(self) -> None:
        check_between(self, 0, MOST_PORT, "port")
        check_at_least(self, 0, "seed")

    def run(self, _command: str) -> int:
        """Play."""
        from rt1.play.server import PlayServer, serve

        provenance = load_info(self.checkpoint, embodiment=self.embodiment).provenance
        suite = suite_of(provenance, self.env)
        tasks = self.tasks or tuple(provenance.get("tasks", ()))
        if not tasks:
            raise ValueError(f"{self.checkpoint} does not say which tasks it was trained on; give --tasks")
        encoder = None if self.text_encoder is None else load_text_encoder(self.text_encoder)
        policy = Policy.from_checkpoint(
            self.checkpoint,
            embodiment=self.embodiment,
            text_encoder=encoder,
            cond_scale=self.acting.cond_scale,
            setting=self.acting.wanted,
        )
        playground = Playground(policy, suite, tasks, seed=self.seed)
        server = PlayServer(playground, title=str(self.checkpoint), port=self.port)
        serve(server, lambda port: print(f"open http://127.0.0.1:{port} in a browser; Ctrl-C ends it", flush=True))
        return 0
