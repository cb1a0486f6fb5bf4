"""The command ``rt1 inspect``."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import tyro

from rt1.checkpoint import EXPORT_FILE, INFO_FILE, RUN_ORDER
from rt1.commands.options import DataFormat
from rt1.common.files import check_replaceable
from rt1.common.json_config import check_at_least
from rt1.data.open_data import DataOptions, open_data
from rt1.data.survey import show_episode, survey_data
from rt1.report.dataset import write_page
from rt1.report.dataset_terminal import checkpoint_text, data_text
from rt1.report.svg import require_figures


@dataclass(frozen=True, kw_only=True)
class InspectCommand:
    """Show the contents of a checkpoint or a data set."""

    path: tyro.conf.Positional[Path]
    """Checkpoint, run or data folder."""
    out: Path | None = None
    """HTML file to write, with histograms and images of a data set. Default: none."""
    episode: int | None = None
    """Number of the episode that the page shows. Default: one of median length."""
    data: DataFormat = field(default_factory=DataOptions)

    def __post_init__(self) -> None:
        check_at_least(self, 0, "episode")

    def run(self, command: str) -> int:
        """Print the contents, and write the page."""
        known = (EXPORT_FILE, INFO_FILE, *(f"{name}/{INFO_FILE}" for name in RUN_ORDER))
        if any((self.path / name).is_file() for name in known):
            if self.out is not None:
                raise ValueError(f"{self.path} is a checkpoint, which has no page. Remove --out {self.out}")
            print(checkpoint_text(self.path))
            return 0
        if self.out is not None:
            require_figures()
            check_replaceable(self.out, suffix=".html")  # before the data are read
        source = open_data(self.path, self.data)
        survey = survey_data(source)
        print(data_text(survey))
        if self.out is None:
            print("histograms and images: add --out PAGE.html")
        else:
            print(f"page: {write_page(self.out, survey, show_episode(source, self.episode), command=command)}")
        return 0
