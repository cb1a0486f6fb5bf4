"""The command ``rt1 inspect``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from rt1.checkpoint import EXPORT_FILE, INFO_FILE, RUN_ORDER
from rt1.commands.options import DataFormat
from rt1.common.files import check_replaceable
from rt1.common.json_config import check_at_least
from rt1.data.compare import Comparison, compare
from rt1.data.lerobot import check_files
from rt1.data.lerobot import schema as lerobot
from rt1.data.open_data import DataOptions, open_data
from rt1.data.sources.base import EpisodeSource
from rt1.data.survey import DataSurvey, show_episode, survey_data
from rt1.errors import CheckpointError, DataError
from rt1.evaluate.rerun_file import check_rerun_target, recorded_episode, write_rerun
from rt1.hub.names import dataset_path, policy_path
from rt1.report.dataset import write_page
from rt1.report.dataset_checks import Finding, findings, in_order
from rt1.report.dataset_terminal import checkpoint_text, data_text
from rt1.report.svg import require_figures
from rt1.text.encoder import TextEncoder
from rt1.text.load import load_text_encoder


@dataclass(frozen=True, kw_only=True)
class InspectCommand:
    """Show the contents of a checkpoint or a data set."""

    path: tyro.conf.Positional[Path]
    """Checkpoint, run or data folder, the name of a policy, or hf://datasets/USER/NAME."""
    out: Path | None = None
    """HTML file to write, with histograms and images of a data set. Default: none."""
    rerun: Path | None = None
    """New .rrd file for the Rerun viewer, with all images and actions of that episode (rt1[viz]). Default: none."""
    episode: int | None = None
    """Number of the episode that the page shows. Default: one of median length."""
    against: Path | None = None
    """Another data set, which the page shows side by side. Images that are likely turned or swapped in color are named,
    and so are actions that are likely opposite in sign."""
    text_encoder: str | None = None
    """Text encoder to check the instructions with. Default: the stored text embeddings, or minilm where none are stored
    and it is installed."""
    json: bool = False
    """Print the checks as JSON. docs/inspect.md has the cure of each."""
    strict: bool = False
    """End with exit status 1 if a check finds an error."""
    data: DataFormat = field(default_factory=DataOptions)
    other: Annotated[DataOptions, tyro.conf.arg(name="other")] = field(default_factory=DataOptions)
    """How to read the other data set."""

    def __post_init__(self) -> None:
        check_at_least(self, 0, "episode")

    def run(self, command: str) -> int:
        """Print the contents, and write the page."""
        try:
            if self._is_policy():
                return self._inspect_policy()
            if self.out is not None:
                require_figures()
                check_replaceable(self.out, suffix=".html")  # before the data are read
            check_rerun_target(self.rerun)
            return self._inspect_data(command)
        except (DataError, CheckpointError) as error:
            if not self.json:
                raise
            print(_json({"data": str(self.path)}, [Finding("unreadable", str(error))]))
            return 1

    def _is_policy(self) -> bool:
        known = (EXPORT_FILE, INFO_FILE, *(f"{name}/{INFO_FILE}" for name in RUN_ORDER))
        folder = policy_path(self.path)
        return any((folder / name).is_file() for name in known)

    def _inspect_policy(self) -> int:
        options = {"out": self.out, "rerun": self.rerun, "against": self.against, "json": self.json or None}
        if unusable := [f"--{name}" for name, value in options.items() if value is not None]:
            raise ValueError(f"{self.path} is a checkpoint, which has no page or checks. Remove {unusable[0]}")
        print(checkpoint_text(self.path))
        return 0

    def _inspect_data(self, command: str) -> int:
        source = open_data(self.path, self.data)
        survey = survey_data(source, encoder=self._encoder(source))
        comparison = None if self.against is None else compare(source, open_data(self.against, self.other))
        found = self._findings(survey, comparison)
        if self.json:
            facts = {"data": survey.name, "episodes": len(survey.lengths), "steps": survey.steps}
            print(_json(facts, found))
        else:
            print(data_text(survey, found))
        if self.out is not None:
            shown = show_episode(source, self.episode)
            write_page(self.out, survey, shown, findings=found, comparison=comparison, command=command)
        if self.rerun is not None:
            number = show_episode(source, self.episode, images=1).episode
            write_rerun(self.rerun, source.name, [recorded_episode(source, number)])
        if not self.json:
            print("histograms and images: add --out PAGE.html" if self.out is None else f"page: {self.out}")
        return int(self.strict and any(finding.severity == "error" for finding in found))

    def _findings(self, survey: DataSurvey, comparison: Comparison | None) -> list[Finding]:
        folder = dataset_path(self.path)
        pairs = check_files.file_problems(folder) if (folder / lerobot.INFO_FILE).is_file() else []
        pairs += () if comparison is None else comparison.differences
        return in_order([*findings(survey), *(Finding(check, message) for check, message in pairs)])

    def _encoder(self, source: EpisodeSource) -> TextEncoder | None:
        """Return the text encoder that is named, or MiniLM where the data have no text embeddings and it is there."""
        if self.text_encoder is not None:
            instructions = [source.instruction(episode) for episode in range(len(source.lengths))]
            return load_text_encoder(self.text_encoder, instructions=filter(str.strip, instructions))
        if source.text_embedding(0) is not None:
            return None
        try:
            return load_text_encoder("minilm")
        except ValueError:  # its weights are not here
            return None


def _json(facts: dict[str, object], found: Sequence[Finding]) -> str:
    return json.dumps({**facts, "findings": [finding.to_json() for finding in found]}, ensure_ascii=False, indent=1)
