"""The command ``rt1 improve``."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from rt1.checkpoint import CheckpointInfo, load_info, load_model, load_whole_info, save_checkpoint
from rt1.commands.options import Preset
from rt1.common.folders import check_folder
from rt1.data.open_data import DataOptions, open_data
from rt1.data.sources.base import all_instructions
from rt1.envs.registry import described
from rt1.report.self_improvement import write_report
from rt1.report.svg import require_figures
from rt1.text.load import load_identified, load_text_encoder
from rt1.train.config import TrainConfig
from rt1.train.data import stored_text_encoder
from rt1.train.self_improvement import IMPROVE_FILES, Improvement, ImproveSettings, improve, success


@dataclass(frozen=True, kw_only=True)
class ImproveCommand:
    """Train a policy on its own successes, or on an expert's corrections, in rounds. Run it again to resume."""

    checkpoint: tyro.conf.Positional[Path | None] = None
    """Policy to start from, before all options. Default: train one on the recorded data first."""
    data: Path
    """Recorded episodes of an environment, as rt1 record writes them."""
    out: Path
    """Folder of all rounds and of report.html."""
    improve: tyro.conf.OmitArgPrefixes[ImproveSettings] = field(default_factory=ImproveSettings)
    """Rounds and their settings."""
    env: str | None = None
    """Environment of the recorded data by name. Needed where it is a PACKAGE.MODULE:FACTORY."""
    preset: Preset = "demo"
    embodiment: str | None = None
    """Embodiment that acts. Required if the checkpoint has several."""
    text_encoder: str | None = None
    """Text encoder, as for rt1 train. Default: the one that the data names."""
    config: Annotated[TrainConfig, tyro.conf.arg(name="train")] = field(default_factory=TrainConfig)
    """Settings of the training runs, except updates and seed."""

    def run(self, command: str) -> int:
        """Run the rounds. Print a line and write the report after each."""
        require_figures()
        check_folder(self.out, ours=IMPROVE_FILES)
        source = open_data(self.data, DataOptions())
        if self.env is not None:
            described(self.env)  # imports it and registers its suite
        stored = stored_text_encoder(source)
        if self.text_encoder is not None:
            encoder = load_text_encoder(self.text_encoder, instructions=all_instructions(source))
        elif stored is not None:
            encoder = load_identified(stored)
        else:
            raise ValueError(f"{self.data} names no text encoder. Give --text-encoder")

        new = []

        def show(improvement: Improvement) -> None:
            new.append(improvement)
            page, last = write_report(improvement, command=command), improvement.rounds[-1]
            control = success(last.control)
            baseline = "" if control is None else f", recorded episodes only {control:.0%}"
            kept, starts, failures = (sum(n.values()) for n in (last.kept, last.attempts, last.failures))
            counts = f"kept {kept} of {starts} starts, {failures} failed tries, " if last.number else ""
            trained = f" {improvement.training}" if last.number else ""
            line = f"round {last.number}: {counts}success{trained} {success(last.improved):.0%}{baseline}"
            line += f", report: {page}"
            print(line, flush=True)

        result = improve(
            source,
            self.config,
            self.out,
            wanted=self.improve,
            encoder=encoder,
            checkpoint=self._start(),
            after_round=show,
        )
        if not result.finished:
            print(f"the budget of {self.improve.cpu_minutes:g} CPU minutes is spent. Give a larger one to resume")
        elif not new:
            rate = success(result.rounds[-1].improved)
            print(f"{self.out} is finished already, success {rate:.0%}. Give more --rounds, or another --out")
        return 0

    def _start(self) -> Path | None:
        """Return the checkpoint to start from. One embodiment of several becomes a checkpoint of its own."""
        if self.checkpoint is None:
            if self.embodiment is not None:
                raise ValueError(
                    f"--embodiment {self.embodiment} needs a checkpoint: rt1 improve RUN --embodiment {self.embodiment}"
                )
            return None
        info = load_info(self.checkpoint, embodiment=self.embodiment)
        if isinstance(load_whole_info(self.checkpoint), CheckpointInfo):
            return self.checkpoint
        model = load_model(self.checkpoint, embodiment=self.embodiment)
        return save_checkpoint(self.out / "start", model=model, info=info)
