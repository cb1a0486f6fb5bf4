"""The command ``rt1 improve``."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from rt1.checkpoint import CheckpointInfo, load_info, load_model, load_whole_info, save_checkpoint
from rt1.common.folders import check_folder
from rt1.data.open_data import DataOptions, open_data
from rt1.report.self_improvement import write_report
from rt1.text.load import load_identified, load_text_encoder
from rt1.train.config import TrainConfig
from rt1.train.data import stored_text_encoder
from rt1.train.self_improvement import IMPROVE_FILES, Improvement, ImproveSettings, improve, success


@dataclass(frozen=True, kw_only=True)
class ImproveCommand:
    """Let a policy learn from its own successes in rounds; run again to resume, or with more rounds."""

    data: Path
    """Recorded episodes of an environment, as rt1 record writes them."""
    out: Path
    """Folder of all rounds and of report.html."""
    checkpoint: Path | None = None
    """Policy to begin with; one is trained on the recorded data if not given."""
    embodiment: str | None = None
    """Which embodiment of that policy acts, where it has several."""
    improve: tyro.conf.OmitArgPrefixes[ImproveSettings] = field(default_factory=ImproveSettings)
    """What is repeated, and how often."""
    text_encoder: str | None = None
    """Text encoder, as of rt1 train; the one the data names if not given."""
    preset: str = "demo"
    """Preset of network and training."""
    config: Annotated[TrainConfig, tyro.conf.arg(name="train")] = field(default_factory=TrainConfig)
    """Settings of the training runs, except updates and seed."""

    def run(self, command: str) -> int:
        """Improve."""
        check_folder(self.out, ours=IMPROVE_FILES)
        source = open_data(self.data, DataOptions())
        stored = stored_text_encoder(source)
        if self.text_encoder is not None:
            instructions = (source.instruction(episode) for episode in range(len(source.lengths)))
            encoder = load_text_encoder(self.text_encoder, instructions=instructions)
        elif stored is not None:
            encoder = load_identified(stored)
        else:
            raise ValueError(f"{self.data} names no text encoder; give --text-encoder")

        new = []

        def show(found: Improvement) -> None:
            new.append(found)
            page, last = write_report(found, command=command), found.rounds[-1]
            control = success(last.control)
            beside = "" if control is None else f", without its own episodes {control:.0%}"
            kept = f"kept {sum(last.kept.values())} of {sum(last.attempts.values())} starts, " if last.number else ""
            print(
                f"round {last.number}: {kept}success {success(last.improved):.0%}{beside}; report: {page}", flush=True
            )

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
            print(f"the budget of {self.improve.cpu_minutes:g} CPU minutes is spent; give a larger one to go on")
        elif not new:
            rate = success(result.rounds[-1].improved)
            print(f"{self.out} was done before, success {rate:.0%}; give more --rounds to go on, or another --out")
        return 0

    def _start(self) -> Path | None:
        """Return the policy to begin with; of several embodiments the one that acts, in a checkpoint of its own."""
        if self.checkpoint is None:
            if self.embodiment is not None:
                raise ValueError(f"--embodiment {self.embodiment} is one of a checkpoint's; give --checkpoint, too")
            return None
        info = load_info(self.checkpoint, embodiment=self.embodiment)
        if isinstance(load_whole_info(self.checkpoint), CheckpointInfo):
            return self.checkpoint
        model = load_model(self.checkpoint, embodiment=self.embodiment)
        return save_checkpoint(self.out / "start", model=model, info=info)
