"""The command ``rt1 record``."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import tyro

from rt1.commands.options import EnvOptions
from rt1.common.folders import check_folder
from rt1.data.rlds.schema import RECORDING_FILE
from rt1.envs.registry import EnvSettings
from rt1.simulate.record import RecordSettings, record
from rt1.text.load import load_text_encoder


@dataclass(frozen=True, kw_only=True)
class RecordCommand:
    """Record an environment's scripted experts as an RLDS data set. Run it again to resume."""

    out: Path
    """Folder of the data set."""
    record: tyro.conf.OmitArgPrefixes[RecordSettings]
    """Settings of the recording."""
    env: EnvOptions = field(default_factory=EnvSettings)
    """Environment."""
    text_encoder: str = "minilm"
    """Text encoder of the instructions: minilm, a table file, or an .onnx file."""

    def run(self, _command: str) -> int:
        """Record."""
        check_folder(self.out, ours=(RECORDING_FILE,))  # before anything is loaded
        report = record(
            self.out, suite=self.env.suite(), settings=self.record, encoder=load_text_encoder(self.text_encoder)
        )
        rejected = ", ".join(f"{task} {count}" for task, count in report.rejected.items() if count) or "none"
        print(
            f"recorded {report.recorded} episodes into {report.folder}. Rejected because the expert failed: {rejected}"
        )
        return 0
