"""The command ``rt1 fetch``."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import tyro

from rt1.data.remote.fetch import FetchSettings, fetch_part, file_count


@dataclass(frozen=True, kw_only=True)
class FetchCommand:
    """Download some episodes of an RLDS or LeRobot data set. Run it again to resume."""

    url: tyro.conf.Positional[str]
    """Folder of the data set: gs://..., s3://..., hf://datasets/... or https://..."""
    out: Path
    """Folder to write."""
    settings: tyro.conf.OmitArgPrefixes[FetchSettings] = field(default_factory=FetchSettings)
    """Settings of the download."""

    def run(self, _command: str) -> int:
        """Download, and print what is there."""
        report = fetch_part(self.url, self.out, self.settings)
        episodes = f"episodes {report.episodes.start}:{report.episodes.stop} of {report.total}"
        print(f"{report.folder}: {episodes}, {file_count(report.files)}, {report.megabytes:.1f} MB of {report.format}")
        print(f"look at it: rt1 inspect {report.folder}")
        return 0
