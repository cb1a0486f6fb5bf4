"""Metrics of a run: one JSON object a line, and optionally TensorBoard, Weights & Biases (W&B) and Trackio."""

from __future__ import annotations

import datetime
import importlib.util
import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from rt1.common.files import write_text
from rt1.common.json_files import read_object
from rt1.common.system import commit, describe_machine
from rt1.errors import DataError
from rt1.evaluate.metrics import METRICS, METRICS_FILE, read_metrics

ABOUT_FILE = "run.json"


@dataclass(frozen=True, kw_only=True)
class LogSettings:
    """Where a run's metrics go besides ``metrics.jsonl``."""

    tensorboard: bool = True
    """Write TensorBoard files into the run folder, where the package is installed (rt1[train])."""
    tracker: Literal["off", "wandb", "trackio"] = "off"
    """Experiment tracker: Weights & Biases (rt1[wandb]), or Trackio (rt1[trackio]) with files on this machine."""
    wandb: Literal["off", "online", "offline"] = "off"
    """Send the metrics to W&B, or write them for a later wandb sync. With the tracker wandb, off means online."""
    project: str = "rt1"
    """Project of the tracker."""
    entity: str | None = None
    """W&B user or team. The account's own if not given."""

    @property
    def wandb_mode(self) -> Literal["off", "online", "offline"]:
        """How W&B gets the metrics."""
        return "online" if self.tracker == "wandb" and self.wandb == "off" else self.wandb


class MetricsLog:
    """Appends records to ``metrics.jsonl``, and to TensorBoard, W&B and Trackio as the settings say.

    ``run.json`` in the same folder holds the configuration, the unit and meaning of every metric, and the commit and
    machine of each start. The others get the same.
    """

    def __init__(
        self,
        run: Path,
        *,
        resume_at: int = 0,
        settings: LogSettings | None = None,
        config: Mapping[str, Any] | None = None,
    ) -> None:
        """Open the log of a run, and drop the records after update ``resume_at``."""
        settings = settings or LogSettings()
        records = [record for record in read_metrics(run) if record["update"] <= resume_at]
        write_text(run / METRICS_FILE, "".join(json.dumps(record) + "\n" for record in records))
        about = _note_start(run, dict(config or {}), resume_at)
        self._file = (run / METRICS_FILE).open("a", encoding="utf-8")
        self._board = _open_board(run, about, resume_at) if settings.tensorboard else None
        self._wandb = None if settings.wandb_mode == "off" else _open_wandb(run, about, settings)
        self._trackio = _open_trackio(run, about, settings) if settings.tracker == "trackio" else None

    def write(self, update: int, values: Mapping[str, float]) -> None:
        """Write one record of values measured after ``update`` updates."""
        self._file.write(json.dumps({"update": update, **values}) + "\n")
        self._file.flush()
        if self._board is not None:
            for name, value in values.items():
                self._board.add_scalar(name, value, update)
        if self._wandb is not None:
            self._wandb.log({"update": update, **values})
        if self._trackio is not None:
            self._trackio.log(dict(values), step=update)

    def close(self) -> None:
        """Close the files."""
        self._file.close()
        if self._board is not None:
            self._board.close()
        if self._wandb is not None:
            self._wandb.finish()
        if self._trackio is not None:
            self._trackio.finish()


def _note_start(run: Path, config: dict[str, Any], update: int) -> dict[str, Any]:
    """Add this start of the run to ``run.json``. Return its content."""
    file = run / ABOUT_FILE
    starts, wandb_id = _earlier_starts(file) if update and file.is_file() else ([], None)
    start = {
        "update": update,
        "date": datetime.datetime.now(tz=datetime.UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "machine": describe_machine(),
    }
    about = {
        "config": config,
        "starts": [*starts, start],
        "wandb_id": wandb_id or secrets.token_hex(4),
        "metrics": {name: metric._asdict() for name, metric in METRICS.items()},
    }
    write_text(file, json.dumps(about, indent=1))
    return about


def _earlier_starts(file: Path) -> tuple[list[Any], str | None]:
    cure = "Remove it to resume without the notes on earlier starts"
    about = read_object(file, cure=cure)
    starts, wandb_id = about.get("starts", []), about.get("wandb_id")
    if not isinstance(starts, list) or not isinstance(wandb_id, str | None):
        raise DataError(
            f"{file} has starts {starts!r:.100} and wandb_id {wandb_id!r:.100}, must be a list and text. {cure}"
        )
    return starts, wandb_id


def _open_board(run: Path, about: Mapping[str, Any], resume_at: int) -> Any:  # noqa: ANN401 (torch has no types for it)
    if importlib.util.find_spec("tensorboard") is None:
        return None
    from torch.utils.tensorboard import SummaryWriter

    board = SummaryWriter(str(run / "tensorboard"), purge_step=resume_at + 1)
    rows = [f"| {name} | {metric.unit} | {metric.meaning} |" for name, metric in METRICS.items()]
    board.add_text("metrics", "\n".join(["| metric | unit | meaning |", "|---|---|---|", *rows]), resume_at)
    # Four spaces make a code block of it, which keeps its lines.
    plain = json.dumps({name: about[name] for name in ("config", "starts")}, indent=1)
    board.add_text("run", "".join(f"    {line}\n" for line in plain.splitlines()), resume_at)
    return board


def _open_wandb(run: Path, about: Mapping[str, Any], settings: LogSettings) -> Any:  # noqa: ANN401 (an optional package)
    import wandb

    try:
        opened = wandb.init(
            project=settings.project,
            entity=settings.entity,
            name=run.name,
            id=about["wandb_id"],  # a resumed run stays one W&B run
            resume="allow" if settings.wandb_mode == "online" else None,  # `wandb sync --append` joins files of one id
            mode=settings.wandb_mode,
            dir=str(run),
            config=_config(about),
        )
    except wandb.Error as error:
        raise ValueError(f"W&B does not start: {error}. Run `wandb login`, or log with --log.wandb offline") from error
    opened.define_metric("update")
    opened.define_metric("*", step_metric="update")
    return opened


def _open_trackio(run: Path, about: Mapping[str, Any], settings: LogSettings) -> Any:  # noqa: ANN401 (an optional package)
    import trackio

    name = f"{run.name}-{about['wandb_id']}"  # a resumed run stays one run
    return trackio.init(project=settings.project, name=name, config=_config(about), resume="allow")


def _config(about: Mapping[str, Any]) -> dict[str, Any]:
    return {**about["config"], "starts": about["starts"], "metrics": about["metrics"]}
