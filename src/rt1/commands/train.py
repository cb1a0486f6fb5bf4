"""The command ``rt1 train``."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Annotated

import tyro

from rt1.data.open_data import DataOptions, open_data
from rt1.text.load import load_text_encoder
from rt1.text.paraphrases import load_paraphrases
from rt1.train.config import TrainConfig
from rt1.train.loop import train


@dataclass(frozen=True, kw_only=True)
class TrainCommand:
    """Train a policy on a recorded data set; run again to resume exactly."""

    data: Path
    """Folder of the data set: RLDS, an Open X set, or LeRobot."""
    out: Path
    """Run folder: last/, best/, metrics.jsonl, tensorboard/."""
    preset: str = "demo"
    """Preset the settings below start from: demo, paper, debug."""
    options: tyro.conf.OmitArgPrefixes[DataOptions] = field(default_factory=DataOptions)
    """What the data set does not say of itself."""
    text_encoder: str | None = None
    """minilm[:tokens=N], hf:NAME[:mean|cls|eos|tokens=N], word-pieces (learned), a table file, or an .onnx file; the
    embeddings stored with the data if not given."""
    paraphrases: Path | None = None
    """JSON or TOML file: instruction to a list of sentences that training gives in its place; needs a text encoder."""
    config: Annotated[TrainConfig, tyro.conf.arg(name="")] = field(default_factory=TrainConfig)
    """Settings of the run."""

    def run(self, _command: str) -> int:
        """Train."""
        source = open_data(self.data, self.options)
        paraphrases = {} if self.paraphrases is None else load_paraphrases(self.paraphrases)
        encoder = None
        if self.text_encoder is not None:
            instructions = (source.instruction(episode) for episode in range(len(source.lengths)))
            sentences = chain(instructions, *paraphrases.values())
            encoder = load_text_encoder(self.text_encoder, instructions=sentences)
        result = train(source, self.config, self.out, encoder=encoder, paraphrases=paraphrases)
        best = "" if result.best is None else f", lowest held-out loss {result.best:.3f}"
        state = "finished" if result.finished else "stopped; run the same command to go on"
        print(f"{state} at update {result.updates}{best}; checkpoints: {result.run}/last and {result.run}/best")
        return 0 if result.finished else 130
