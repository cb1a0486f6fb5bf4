"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import tyro

from rt1.checkpoint import RUN_ORDER
from rt1.data.open_data import DataOptions
from rt1.envs.registry import EnvSettings
from rt1.presets import PRESETS

DataFormat = Annotated[tyro.conf.OmitArgPrefixes[DataOptions], tyro.conf.arg(name="data-format")]
"""How to read a data set, in a group of its own at the end of a help page."""

EnvOptions = Annotated[tyro.conf.OmitArgPrefixes[EnvSettings], tyro.conf.arg(name="env")]
"""Which environment, and its settings, in groups at the end of a help page."""


def _preset_help() -> str:
    lines = [f"- {name}: {(make.__doc__ or '').splitlines()[0]}" for name, make in PRESETS.items()]
    return "\n\n".join(["Preset that the other settings start from.", "\n".join(lines)])


Preset = Annotated[str, tyro.conf.arg(help=_preset_help())]
"""Name of a preset. The help page lists all of them."""


def report_folder(checkpoint: Path) -> Path:
    """Return the default folder of a checkpoint's reports. It is outside last/ and best/, which training replaces."""
    checkpoint = checkpoint if checkpoint.name else checkpoint.absolute()  # the current folder may be last/
    if checkpoint.name in RUN_ORDER:
        return checkpoint.parent / f"evaluation-{checkpoint.name}"
    return checkpoint / "evaluation"
