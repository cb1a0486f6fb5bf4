"""The metrics file of a run: one JSON object a line, appended while the run goes on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

METRICS_FILE = "metrics.jsonl"


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """Return the records of a run's metrics file, oldest first; a half-written last line is left out."""
    file = run / METRICS_FILE
    if not file.is_file():
        return []
    records = []
    for line in file.read_text().splitlines():
        try:
            records.append(json.loads(line))
        except ValueError:
            break  # the line being written when the process was killed; its update is run again
    return records
