"""The command ``rt1 play``."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import tyro

from rt1.commands.options import EnvOptions, simulation, text_encoder
from rt1.commands.policy_options import CheckpointPath, EmbodimentName, EncoderName
from rt1.common.json_config import MOST_PORT, check_at_least, check_between
from rt1.envs.registry import EnvSettings
from rt1.evaluate.closed_loop import check_pictures_fit
from rt1.play.playground import Playground, View
from rt1.policy.open import describe
from rt1.policy.policy import ActingSettings, Policy
from rt1.serve.recording import LoopRecording


@dataclass(frozen=True, kw_only=True)
class PlayCommand:
    """Watch and control a policy in a simulator, on a web page on this machine, until Ctrl-C."""

    checkpoint: CheckpointPath
    tasks: tuple[str, ...] = ()
    """Tasks to choose from. Default: the tasks of the training data."""
    port: int = 8001
    """Port on 127.0.0.1. 0 takes a free one."""
    seed: int = 0
    """Seed of the initial states, as in rt1 evaluate."""
    mcap: Path | None = None
    """New .mcap file of images, actions and latencies, which Foxglove shows (rt1[mcap])."""
    embodiment: EmbodimentName = None
    acting: tyro.conf.OmitArgPrefixes[ActingSettings] = field(default_factory=ActingSettings)
    """How the network runs."""
    text_encoder: EncoderName = None
    env: EnvOptions = field(default_factory=EnvSettings)
    """Environment."""

    def __post_init__(self) -> None:
        check_between(self, 0, MOST_PORT, "port")
        check_at_least(self, 0, "seed")

    def run(self, _command: str) -> int:
        """Serve the page."""
        from rt1.play.server import PlayServer, serve

        suite, tasks = simulation(self.checkpoint, embodiment=self.embodiment, env=self.env, tasks=self.tasks)
        check_pictures_fit(describe(self.checkpoint, embodiment=self.embodiment), suite)
        policy = Policy.from_checkpoint(
            self.checkpoint,
            embodiment=self.embodiment,
            text_encoder=text_encoder(self.text_encoder),
            **vars(self.acting),
        )
        playground = Playground(policy, suite, tasks, seed=self.seed)
        server = PlayServer(playground, title=str(self.checkpoint), port=self.port)
        with LoopRecording(self.mcap, policy.action_spec) as recording:
            playground.on_step = partial(_record, recording)
            serve(
                server,
                lambda port: print(f"open http://127.0.0.1:{port} in a browser, press Ctrl-C to stop", flush=True),
            )
        return 0


def _record(recording: LoopRecording, view: View) -> None:
    assert view.decision is not None
    recording.instruction = view.instruction or ""
    recording.add(view.decision.image, view.decision.action, milliseconds=view.latencies[-1])
