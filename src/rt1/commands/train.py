"""The command ``rt1 train``."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Annotated, Any

import tyro

from rt1.checkpoint import load_whole_info
from rt1.commands.options import DataFormat, Preset
from rt1.common.folders import check_folder
from rt1.common.system import tune_allocator
from rt1.data.open_data import DataOptions
from rt1.data.open_mixture import open_mixture
from rt1.data.sources.base import EpisodeSource, all_instructions
from rt1.data.survey import survey_data
from rt1.presets import TEXT_ENCODERS, preset
from rt1.report.dataset_checks import findings
from rt1.text.encoder import TextEncoder
from rt1.text.load import load_text_encoder
from rt1.text.paraphrases import load_paraphrases
from rt1.train.config import TrainConfig
from rt1.train.dry_run import dry_run
from rt1.train.loop import RUN_FILES, train


def starting_config(name: str, init: str) -> TrainConfig:
    """Return the settings of a preset, with the network of the checkpoint ``init`` if it is given."""
    config = preset(name)
    if not init or Path(init).is_file():  # a file holds a backbone only
        return config
    return replace(config, init=init, model=load_whole_info(init).model)


@dataclass(frozen=True, kw_only=True)
class RareOptions:
    """Options at the end of the help page."""

    dry_run: bool = False
    """Check data, settings and output folder, measure memory and time over a few updates, print what the run would do,
    and write nothing. It works under torchrun, too."""
    paraphrases: Path | None = None
    """JSON or TOML file that maps an instruction to a list of paraphrases. Training draws from them, and needs a text
    encoder."""
    allow_changes: bool = False
    """Resume a run although settings or data changed. The changes are listed."""


@dataclass(frozen=True, kw_only=True)
class TrainCommand:
    """Train a policy on a recorded data set. Run it again to resume exactly."""

    data: tuple[str, ...]
    """Folder of the data set (RLDS, an Open X set, or LeRobot), several as FOLDER=WEIGHT, or one mixture file
    (docs/data.md)."""
    out: Path
    """Run folder: last/, best/, metrics.jsonl, tensorboard/."""
    preset: Preset = "demo"
    text_encoder: str | None = None
    """minilm[:tokens=N], multilingual, hf:NAME[:mean|cls|eos|tokens=N], word-pieces[:tokens=N] (learned), a table file,
    or an .onnx file. Default: the encoder that the preset names, or the embeddings stored with the data."""
    config: Annotated[TrainConfig, tyro.conf.arg(name="")] = field(default_factory=TrainConfig)
    """Settings of the run."""
    rare: Annotated[RareOptions, tyro.conf.arg(name="")] = field(default_factory=RareOptions)
    """Options that most runs do not need."""
    options: DataFormat = field(default_factory=DataOptions)

    def run(self, _command: str) -> int:
        """Train."""
        check_folder(self.out, ours=RUN_FILES)  # before the data are read
        tune_allocator(keep=self.config.activations != "full")
        sources = open_mixture(self.data, self.options)
        paraphrases = {} if self.rare.paraphrases is None else load_paraphrases(self.rare.paraphrases)
        encoder = None
        name = self.text_encoder or TEXT_ENCODERS.get(self.preset)
        if name is not None:
            instructions = chain.from_iterable(all_instructions(weighted.source) for weighted in sources)
            encoder = load_text_encoder(name, instructions=chain(instructions, *paraphrases.values()))
        arguments: dict[str, Any] = {
            "encoder": encoder,
            "paraphrases": paraphrases,
            "allow_changes": self.rare.allow_changes,
        }
        if self.rare.dry_run:
            facts = dry_run(sources, self.config, self.out, **arguments)
            for name, value in facts.items():
                print(f"{name}: {value}")
            for weighted in sources if facts else ():  # one process speaks for all
                print(f"data check: {_check(weighted.source, encoder)}")
            return 0
        result = train(sources, self.config, self.out, **arguments)
        if int(os.environ.get("RANK", "0")):
            return 0 if result.finished else 130  # one process speaks for all
        for change in result.changes:
            print(f"changed {change}")
        best = "" if result.best is None else f", best held-out {self.config.best_metric} {result.best:.3f}"
        state = "finished" if result.finished else "stopped, run the same command again to resume"
        print(f"{state} at update {result.updates}{best}, checkpoints: {result.run}/last and {result.run}/best")
        return 0 if result.finished else 130


def _check(source: EpisodeSource, encoder: TextEncoder | None) -> str:
    """Return what the checks of ``rt1 inspect`` find in a data set, notes left out."""
    checked = [finding for finding in findings(survey_data(source, encoder=encoder)) if finding.severity != "note"]
    return f"{source.name}: {'; '.join(map(str, checked)) or 'no errors, no warnings'}"
