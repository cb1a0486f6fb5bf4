"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import tyro

from rt1.checkpoint import RUN_ORDER
from rt1.common.folders import check_folder
from rt1.data.open_data import DataOptions
from rt1.envs.base import TaskSuite
from rt1.envs.registry import EnvSettings, tasks_of
from rt1.policy.open import describe, policy_folder
from rt1.presets import PRESETS
from rt1.report.offline import JSON_FILE
from rt1.report.shards import SHARD_FILES
from rt1.text.encoder import TextEncoder
from rt1.text.load import load_text_encoder

DataFormat = Annotated[
    tyro.conf.OmitArgPrefixes[DataOptions],
    tyro.conf.arg(name="data-format", help="How to read a data set that does not describe itself."),
]
"""How to read a data set, in a group of its own at the end of a help page."""
ReportFolder = Annotated[
    Path | None,
    tyro.conf.arg(
        help="Folder of the report. Default: evaluation-last/ in the run folder, evaluation/ in the checkpoint folder, "
        "evaluation-NAME/ here for a policy by name."
    ),
]

EnvOptions = Annotated[tyro.conf.OmitArgPrefixes[EnvSettings], tyro.conf.arg(name="env")]
"""Which environment, and its settings, in groups at the end of a help page."""


def _preset_help() -> str:
    lines = [f"- {name}: {(make.__doc__ or '').splitlines()[0]}" for name, make in PRESETS.items()]
    return "\n\n".join(["Preset that the other settings start from.", "\n".join(lines)])


Preset = Annotated[str, tyro.conf.arg(help=_preset_help())]
"""Name of a preset. The help page lists all of them."""


def text_encoder(name: str | None) -> TextEncoder | None:
    """Return the text encoder of that name, or None, which stands for the one that the checkpoint names."""
    return None if name is None else load_text_encoder(name)


def report_folder(out: Path | None, checkpoint: Path) -> Path:
    """Return the folder of a report. The default is outside last/ and best/, which training replaces.

    Raises:
        SaveError: the folder holds something else.
    """
    if out is None and not checkpoint.exists():  # a name: its files are not the user's
        out = Path(f"evaluation-{checkpoint.name}")
    elif out is None:
        folder = policy_folder(checkpoint)
        folder = folder if folder.name else folder.absolute()  # the current folder may be last/
        is_of_run = folder.name in RUN_ORDER
        out = folder.parent / f"evaluation-{folder.name}" if is_of_run else folder / "evaluation"
    shards = [path.name for path in out.glob(SHARD_FILES)]
    check_folder(out, ours=("results.json", JSON_FILE, *RUN_ORDER, *shards))
    return out


def simulator(checkpoint: Path, *, embodiment: str | None, env: EnvSettings) -> TaskSuite:
    """Return the environment of a policy: by default, that of its training data."""
    return env.suite_of(describe(checkpoint, embodiment=embodiment).provenance, str(checkpoint))


def simulation(
    checkpoint: Path, *, embodiment: str | None, env: EnvSettings, tasks: tuple[str, ...]
) -> tuple[TaskSuite, tuple[str, ...]]:
    """Return the environment and the tasks of a policy: by default, those of its training data.

    Raises:
        ValueError: no tasks or no environment are named.
    """
    provenance = describe(checkpoint, embodiment=embodiment).provenance
    suite = env.suite_of(provenance, str(checkpoint))
    tasks = tasks or tasks_of(suite, provenance)
    if not tasks:
        raise ValueError(
            f"{checkpoint} names no tasks. Give --tasks, or use rt1 evaluate-offline for recorded episodes"
        )
    return suite, tasks
