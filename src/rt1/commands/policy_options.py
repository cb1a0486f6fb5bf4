"""Options that name a policy. No torch: a robot serves an exported folder without it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import tyro

CheckpointPath = Annotated[
    tyro.conf.Positional[Path],
    tyro.conf.arg(help="Checkpoint, run folder, exported folder, name of a shipped policy, or USER/NAME on the Hub."),
]
EmbodimentName = Annotated[
    str | None, tyro.conf.arg(help="Embodiment that acts. Required if the checkpoint has several.")
]
EncoderName = Annotated[
    str | None,
    tyro.conf.arg(
        help="Text encoder: minilm, minilm:tokens=N, multilingual, hf:NAME, a table file, or an .onnx file. "
        "Default: the one that the checkpoint names."
    ),
]
