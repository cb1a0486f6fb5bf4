"""Metrics of a run: one JSON object a line, and TensorBoard where it is installed."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rt1.files import write_text
from rt1.metrics import METRICS_FILE, read_metrics


class MetricsLog:
    """Appends records to ``metrics.jsonl`` and to TensorBoard files."""

    def __init__(self, run: Path, *, resume_at: int = 0) -> None:
        """Open the log of a run; records from update ``resume_at`` on are dropped, since they will come again."""
        kept = [record for record in read_metrics(run) if record["update"] <= resume_at]
        write_text(run / METRICS_FILE, "".join(json.dumps(record) + "\n" for record in kept))
        self._file = (run / METRICS_FILE).open("a")
        self._board: Any = None
        if importlib.util.find_spec("tensorboard") is not None:
            from torch.utils.tensorboard import SummaryWriter

            self._board = SummaryWriter(str(run / "tensorboard"), purge_step=resume_at + 1)

    def write(self, update: int, values: Mapping[str, float]) -> None:
        """Write one record of values measured after ``update`` updates."""
        self._file.write(json.dumps({"update": update, **values}) + "\n")
        self._file.flush()
        if self._board is not None:
            for name, value in values.items():
                self._board.add_scalar(name, value, update)

    def close(self) -> None:
        """Close the files."""
        self._file.close()
        if self._board is not None:
            self._board.close()
