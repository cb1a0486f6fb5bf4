"""The metrics of training: units, meanings, and their file."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from rt1.common.json_files import parse
from rt1.errors import DataError

METRICS_FILE = "metrics.jsonl"


class Metric(NamedTuple):
    """What a number means."""

    unit: str
    meaning: str  # a description


_RECORD = "mean of the updates since the last record"
METRICS: dict[str, Metric] = {
    "loss": Metric("nats per token", f"cross-entropy of the training targets, {_RECORD}"),
    "accuracy": Metric("share, 0..1", f"action tokens of the training batches that are right, {_RECORD}"),
    "gradient_norm": Metric("nats per unit of weight", f"length of the gradient before it is clipped, {_RECORD}"),
    "clipped_actions": Metric(
        "values per update", f"recorded action values outside the action spec's bounds, {_RECORD}"
    ),
    "learning_rate": Metric("per update", "learning rate of the last update, of parts whose factor is 1"),
    "windows_per_second": Metric("1/s", "windows trained on per second of wall-clock time since the last record"),
    "images_per_second": Metric("1/s", "images encoded per second of wall-clock time since the last record"),
    "data_wait": Metric("share, 0..1", "part of the updates' time that was spent waiting for a batch"),
    "memory_gb": Metric("1e9 bytes", "most memory the first process held so far"),
    "gpu_memory_gb": Metric("1e9 bytes", "most memory of its GPU the first process used so far"),
    "heldout_loss": Metric("nats per token", "cross-entropy of the held-out episodes' tokens, targets not spread"),
    "heldout_accuracy": Metric("share, 0..1", "action tokens of the held-out episodes that are right"),
    "heldout_within_1_bin": Metric("share, 0..1", "held-out tokens at most 1 bin off, of a choice the right ones"),
    "heldout_within_5_bins": Metric("share, 0..1", "held-out tokens at most 5 bins off, of a choice the right ones"),
    "heldout_l1_of_range": Metric(
        "share of the bounds' range", "absolute error of held-out continuous actions, mean over their dimensions"
    ),
    "heldout_l1": Metric("the dimension's unit", "absolute error of a continuous dimension on held-out episodes"),
    "success": Metric("share, 0..1", "closed-loop trials that reached their goal, mean over the tasks"),
    "heldout_wrong_choice": Metric("share, 0..1", "steps of held-out episodes whose choice is not the recorded one"),
}
"""Metrics by name. ``name/part`` is the metric ``name`` of one part: a dimension of the action, a task."""


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """Return the records of a run's metrics file, oldest first, without a half-written last line.

    Raises:
        DataError: another line that is not an object of numbers with an ``update``.
    """
    file = run / METRICS_FILE
    lines = file.read_bytes().split(b"\n") if file.is_file() else []
    cure = "Remove that line"
    records = []
    for number, line in enumerate(lines[:-1], 1):
        record = parse(line, name=f"{file}, line {number}", cure=cure)
        is_record = isinstance(record, dict) and type(record.get("update")) is int
        if not is_record or not all(map(_is_number, record.values())):
            raise DataError(
                f"{file}, line {number} is {record!r:.200}, must hold numbers and an update. {cure.capitalize()}"
            )
        records.append(record)
    return records


def _is_number(value: object) -> bool:
    return type(value) is float or (type(value) is int and abs(value) < 2**63)
