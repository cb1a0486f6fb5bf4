"""The command ``rt1 play``."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import tyro

from rt1.checkpoint import load_info
from rt1.commands.options import EnvOptions
from rt1.common.json_config import MOST_PORT, check_at_least, check_between
from rt1.envs.registry import EnvSettings, tasks_of
from rt1.evaluate.closed_loop import check_pictures_fit
from rt1.play.playground import Playground
from rt1.policy.autotune import ActingSettings
from rt1.policy.policy import Policy
from rt1.text.load import load_text_encoder


@dataclass(frozen=True, kw_only=True)
class PlayCommand:
    """Watch and control a policy in a simulator, on a web page on this machine, until Ctrl-C."""

    checkpoint: tyro.conf.Positional[Path]
    """Checkpoint or run folder."""
    tasks: tuple[str, ...] = ()
    """Tasks to choose from. Default: the tasks of the training data."""
    port: int = 8001
    """Port on 127.0.0.1. 0 takes a free one."""
    seed: int = 0
    """Seed of the initial states, as in rt1 evaluate."""
    embodiment: str | None = None
    """Embodiment that acts. Required if the checkpoint has several."""
    acting: tyro.conf.OmitArgPrefixes[ActingSettings] = field(default_factory=ActingSettings)
    """How the network runs."""
    text_encoder: str | None = None
    """Text encoder: minilm, a table file, or an .onnx file. Default: the one that the checkpoint names."""
    env: EnvOptions = field(default_factory=EnvSettings)
    """Environment."""

    def __post_init__(self) -> None:
        check_between(self, 0, MOST_PORT, "port")
        check_at_least(self, 0, "seed")

    def run(self, _command: str) -> int:
        """Serve the page."""
        from rt1.play.server import PlayServer, serve

        info = load_info(self.checkpoint, embodiment=self.embodiment)
        suite = self.env.suite_of(info.provenance, str(self.checkpoint))
        tasks = self.tasks or tasks_of(suite, info.provenance)
        if not tasks:
            raise ValueError(f"{self.checkpoint} names no tasks. Give --tasks")
        check_pictures_fit(info, suite)
        encoder = None if self.text_encoder is None else load_text_encoder(self.text_encoder)
        policy = Policy.from_checkpoint(
            self.checkpoint,
            embodiment=self.embodiment,
            text_encoder=encoder,
            cond_scale=self.acting.cond_scale,
            setting=self.acting.choice,
        )
        playground = Playground(policy, suite, tasks, seed=self.seed)
        server = PlayServer(playground, title=str(self.checkpoint), port=self.port)
        serve(
            server, lambda port: print(f"open http://127.0.0.1:{port} in a browser, press Ctrl-C to stop", flush=True)
        )
        return 0
