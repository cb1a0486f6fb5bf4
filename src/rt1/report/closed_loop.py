"""The report of a closed-loop evaluation: ``results.json`` and one self-contained HTML page."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from rt1.common.files import write_text
from rt1.data.sources.base import EpisodeSource
from rt1.envs.base import TaskSuite
from rt1.envs.protocol import EvaluationProtocol
from rt1.evaluate.closed_loop import TrialSettings
from rt1.evaluate.episode_trace import EpisodePlot
from rt1.evaluate.outcomes import BASELINES, Shard
from rt1.evaluate.results import InstructedResult, TaskResult, group_rates, mean
from rt1.report.html import episode_card, render
from rt1.report.provenance import Provenance, ProvenanceRecorder, ReportContext, provenance_json
from rt1.report.shards import log_file, read_shards, report_fields, run_trials_of
from rt1.report.svg import success_bars, training_curves
from rt1.text.encoder import TextEncoder


@dataclass(frozen=True, kw_only=True)
class Report(Provenance):
    """All results of a closed-loop evaluation, and its provenance."""

    tasks: Sequence[TaskResult]
    swapped: Sequence[InstructedResult] = ()  # trials under another task's instruction
    paraphrases: Sequence[InstructedResult] = ()  # trials under a sentence not in the training text
    episodes: Sequence[EpisodePlot] = ()  # held-out episodes to plot
    metrics: Sequence[Mapping[str, Any]] = ()  # records of ``metrics.jsonl``
    protocols: Sequence[EvaluationProtocol] = ()  # the published one that was followed, then others of the same trials
    picture_backend: str | None = None  # library that drew the images, None where the suite does not say it
    weights: str | None = None  # hash of the policy's weights, see rt1.policy.open.weights_hash

    def __post_init__(self) -> None:
        if not self.tasks:
            raise ValueError("a report of 0 tasks, must have at least 1. Evaluate a task first")

    def task_mean(self, column: str) -> float | None:
        """Return the mean of ``success`` or a baseline, 0..1, or ``None`` unless it was run on every task."""
        return mean([getattr(task, column) for task in self.tasks])

    @property
    def row(self) -> str:
        """Name of the policy's row in the protocol's table: what it is trained on besides recorded episodes, if so."""
        return ", ".join(["This policy", *(value for name, value in self.settings.items() if name == "training")])

    @property
    def table(self) -> str:
        """The results as text: a line per task, a column for the policy and each baseline that was run."""
        swapped = {result.task: result.success for result in self.swapped}
        cells = []
        for task in self.tasks:
            rates = {"policy": task.success, **{kind: getattr(task, kind) for kind in BASELINES}}
            rates["swapped"] = swapped.get(task.task)
            scores = {kind: f"{score:.1f}" for kind, score in task.scores.items()}
            cells.append(scores or {kind: f"{rate:.0%}" for kind, rate in rates.items() if rate is not None})
        columns = list(dict.fromkeys(kind for row in cells for kind in row))
        names = {"blind": "replay", "swapped": "swapped instruction"}
        lines = [["task", *(names.get(column, column) for column in columns)]]
        lines += [[t.task, *(row.get(c, "-") for c in columns)] for t, row in zip(self.tasks, cells, strict=True)]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        return "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in lines)

    @property
    def measures_returns(self) -> bool:
        """True where the tasks are measured by their return in place of success."""
        return any(task.returns for task in self.tasks)

    def mean_score(self, kind: str) -> float | None:
        """Return the mean score of the policy or a baseline, percent. ``None`` unless it was run on every task."""
        return mean([task.scores.get(kind) for task in self.tasks])

    def groups(self, protocol: EvaluationProtocol, column: str = "success") -> dict[str, float | None]:
        """Return the mean of ``success`` or a baseline of each group of a protocol, 0..1."""
        return group_rates(self.tasks, protocol.groups, column)

    def protocol_score(self, protocol: EvaluationProtocol, column: str = "success") -> float | None:
        """Return the number that a protocol compares, 0..1."""
        if protocol.score == "mean_of_groups":
            return mean(list(self.groups(protocol, column).values()))
        return self.task_mean(column)

    @property
    def swapped_success(self) -> float | None:
        """Mean rate of the original goals under another instruction, ``None`` where not run."""
        return mean([result.success for result in self.swapped])

    @property
    def paraphrase_success(self) -> float | None:
        """Mean success rate under paraphrases, ``None`` where not run."""
        return mean([result.success for result in self.paraphrases])


def evaluate_checkpoint(
    checkpoint: Path | str,
    out: Path | str,
    *,
    suite: TaskSuite,
    settings: TrialSettings,
    source: EpisodeSource | None = None,
    encoder: TextEncoder | None = None,
    context: ReportContext | None = None,
) -> Report:
    """Evaluate a checkpoint closed loop and write ``results.json`` and ``report.html`` into ``out``.

    Finished trials are logged in ``out`` until the report is written. An interrupted call resumes when made again.

    Args:
        checkpoint: checkpoint or run folder. The page shows the training curves of a run folder.
        out: output folder.
        suite: the environments.
        settings: tasks, trials, seed.
        source: recorded episodes, to plot held-out ones. None plots nothing.
        encoder: text encoder. None loads the one that the checkpoint names.
        context: further provenance for the report.
    """
    recorder = ProvenanceRecorder(checkpoint, context, embodiment=settings.embodiment)
    shard = Shard(number=1, count=1)
    log = log_file(out, shard)
    trials, plots = run_trials_of(recorder, shard, suite, settings, log=log, encoder=encoder, source=source)
    report = Report(**report_fields([trials]), episodes=plots)
    write_report(report, Path(out))
    log.unlink(missing_ok=True)
    return report


def merge_shards(folders: Sequence[Path], out: Path) -> Report:
    """Write the report of an evaluation whose shards lie in ``folders``. It is that of one machine but for times.

    The errors are those of :func:`rt1.report.shards.read_shards`.
    """
    report = Report(**report_fields(read_shards(folders)))
    write_report(report, out)
    return report


def results_json(report: Report) -> dict[str, Any]:
    """Return the report's figures as plain data for ``json``, with rates in 0..1, ``None`` where not run."""
    return {
        "tasks": [
            _counted_json(task, "instruction")
            | {column: getattr(task, column) for column in (*BASELINES, "mean_steps", "clipped")}
            | ({"returns": dict(task.returns), "scores": task.scores} if task.returns else {})
            for task in report.tasks
        ],
        **{f"mean_{column}": report.task_mean(column) for column in ("success", *BASELINES)},
        "row": report.row,
        **_protocols_json(report),
        "task_mean": report.task_mean("success"),
        "settings": dict(report.settings),
        "picture_backend": report.picture_backend,
        "weights": report.weights,
        "swapped_success": report.swapped_success,
        "swapped": [_counted_json(result, "given_instruction") for result in report.swapped],
        "paraphrase_success": report.paraphrase_success,
        "paraphrases": [_counted_json(result, "paraphrase") for result in report.paraphrases],
        **provenance_json(report),
    }


def _protocols_json(report: Report) -> dict[str, Any]:
    """Return the scores of all protocols, and the groups of the one that was followed."""
    followed = report.protocols[0] if report.protocols else None
    groups = {} if followed is None else report.groups(followed)
    return {
        "protocol": None if followed is None else followed.name,
        "groups": groups,
        "mean_of_groups": mean(list(groups.values())),
        "baseline_groups": {c: {} if followed is None else report.groups(followed, c) for c in BASELINES},
        "protocols": {
            protocol.name: {
                "score": protocol.score,
                "success": report.protocol_score(protocol),
                "groups": report.groups(protocol),
            }
            for protocol in report.protocols
        },
    }


def write_report(report: Report, folder: Path) -> Path:
    """Write ``results.json`` and ``report.html`` into a folder, replacing older ones, and return the page's path.

    Raises:
        SaveError: a file cannot be written. The older one is unchanged.
        ModuleNotFoundError: matplotlib is not installed.
    """
    write_text(folder / "results.json", json.dumps(results_json(report), indent=2, allow_nan=False) + "\n")
    page = render(
        "closed_loop.html",
        title=report.title,
        subtitle=report.subtitle,
        report=report,
        groups={protocol.name: _group_heads(protocol) for protocol in report.protocols},
        bars=[_bars(task, report.swapped) for task in report.tasks],
        curves=training_curves(report.metrics),
        episodes=[episode_card(episode) for episode in report.episodes],
    )
    write_text(folder / "report.html", page)
    return folder / "report.html"


def _group_heads(protocol: EvaluationProtocol) -> list[str]:
    return [f"{group.replace('_', ' ')} ({len(tasks)} tasks)" for group, tasks in protocol.groups.items()]


def _bars(task: TaskResult, swapped: Sequence[InstructedResult]) -> Markup:
    others = [result for result in swapped if result.task == task.task]
    rates: dict[str, tuple[float | None, tuple[float, float] | None]] = {
        "policy": (task.success, task.interval95),
        "expert": (task.expert, None),
        "replay": (task.blind, None),
        "random": (task.random, None),
        "swapped": (mean([result.success for result in others]), others[0].interval95 if len(others) == 1 else None),
    }
    return success_bars(f"Success rates of {task.task}", rates)


def _counted_json(result: InstructedResult, sentence: str) -> dict[str, Any]:
    counts = {"trials": result.trials, "success": result.success, "interval95": list(result.interval95)}
    return {"task": result.task, sentence: result.instruction, **counts}
