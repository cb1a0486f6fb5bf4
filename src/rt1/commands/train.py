"""The command ``rt1 train``."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Annotated

import tyro

from rt1.checkpoint import load_whole_info
from rt1.common.folders import check_folder
from rt1.common.system import tune_allocator
from rt1.data.open_data import DataOptions
from rt1.data.open_mixture import open_mixture
from rt1.presets import TEXT_ENCODERS, preset
from rt1.text.load import load_text_encoder
from rt1.text.paraphrases import load_paraphrases
from rt1.train.config import TrainConfig
from rt1.train.loop import RUN_FILES, train


def starting_config(name: str, init: str) -> TrainConfig:
    """Return the defaults of the command's settings: a preset's and, to start from a checkpoint, its network's."""
    config = preset(name)
    if not init or Path(init).is_file():  # a file holds a backbone only
        return config
    return replace(config, init=init, model=load_whole_info(init).model)


@dataclass(frozen=True, kw_only=True)
class TrainCommand:
    """Train a policy on a recorded data set; run again to resume exactly."""

    data: tuple[str, ...]
    """Folder of the data set: RLDS, an Open X set, or LeRobot; or several, each as FOLDER=WEIGHT; or one mixture file
    (docs/data.md)."""
    out: Path
    """Run folder: last/, best/, metrics.jsonl, tensorboard/."""
    preset: str = "demo"
    """Preset the settings below start from: demo, paper, debug."""
    options: tyro.conf.OmitArgPrefixes[DataOptions] = field(default_factory=DataOptions)
    """What the data set does not say of itself."""
    text_encoder: str | None = None
    """minilm[:tokens=N], hf:NAME[:mean|cls|eos|tokens=N], word-pieces[:tokens=N] (learned), a table file, or an .onnx
    file; the embeddings stored with the data if not given, or what the preset's network wants."""
    paraphrases: Path | None = None
    """JSON or TOML file: instruction to a list of sentences that training gives in its place; needs a text encoder."""
    allow_changes: bool = False
    """Go on with a run although settings or data differ from those it began with; they are listed."""
    config: Annotated[TrainConfig, tyro.conf.arg(name="")] = field(default_factory=TrainConfig)
    """Settings of the run."""

    def run(self, _command: str) -> int:
        """Train."""
        check_folder(self.out, ours=RUN_FILES)  # before the data are read
        tune_allocator(keep=self.config.activations != "full")
        sources = open_mixture(self.data, self.options)
        paraphrases = {} if self.paraphrases is None else load_paraphrases(self.paraphrases)
        encoder = None
        name = self.text_encoder or TEXT_ENCODERS.get(self.preset)
        if name is not None:
            opened = [each.source for each in sources]
            instructions = (source.instruction(episode) for source in opened for episode in range(len(source.lengths)))
            encoder = load_text_encoder(name, instructions=chain(instructions, *paraphrases.values()))
        result = train(
            sources,
            self.config,
            self.out,
            encoder=encoder,
            paraphrases=paraphrases,
            allow_changes=self.allow_changes,
        )
        if int(os.environ.get("RANK", "0")):
            return 0 if result.finished else 130  # one process speaks for all
        for change in result.changes:
            print(f"changed {change}")
        best = "" if result.best is None else f", best held-out {self.config.best_metric} {result.best:.3f}"
        state = "finished" if result.finished else "stopped; run the same command to go on"
        print(f"{state} at update {result.updates}{best}; checkpoints: {result.run}/last and {result.run}/best")
        return 0 if result.finished else 130
