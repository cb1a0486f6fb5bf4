"""The report of a closed-loop evaluation: ``results.json`` and one self-contained HTML page."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from rt1.common.files import write_text
from rt1.evaluate.closed_loop import BASELINES
from rt1.evaluate.episode_trace import EpisodePlot
from rt1.evaluate.results import Counted, ParaphraseResult, SwappedResult, TaskResult, mean
from rt1.report.episodes import episode_card
from rt1.report.html import render
from rt1.report.provenance import Provenance, provenance_json
from rt1.report.svg import success_bars, training_curves


@dataclass(frozen=True, kw_only=True)
class Report(Provenance):
    """All results of a closed-loop evaluation, and its provenance."""

    tasks: Sequence[TaskResult]
    swapped: Sequence[SwappedResult] = ()  # trials under another task's instruction
    paraphrases: Sequence[ParaphraseResult] = ()  # trials under a sentence not in the training text
    episodes: Sequence[EpisodePlot] = ()  # held-out episodes to plot
    metrics: Sequence[Mapping[str, Any]] = ()  # records of ``metrics.jsonl``

    def __post_init__(self) -> None:
        if not self.tasks:
            raise ValueError("a report of 0 tasks; it needs at least 1; evaluate a task first")

    def task_mean(self, column: str) -> float | None:
        """Return the mean of ``success`` or a baseline, 0..1; ``None`` unless it was run on every task."""
        return mean([getattr(task, column) for task in self.tasks])

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
        """Return the mean score of the policy or a baseline, percent; ``None`` unless it was run on every task."""
        return mean([task.scores.get(kind) for task in self.tasks])

    @property
    def swapped_success(self) -> float | None:
        """Mean rate of the original goals under another instruction; ``None`` where not tried."""
        return mean([result.success for result in self.swapped])

    @property
    def paraphrase_success(self) -> float | None:
        """Mean success rate under paraphrases; ``None`` where not tried."""
        return mean([result.success for result in self.paraphrases])


def results_json(report: Report) -> dict[str, Any]:
    """Return the report's figures as plain data for ``json``; rates in 0..1, ``None`` where not run."""
    return {
        "tasks": [_task_json(task) for task in report.tasks],
        **{f"mean_{column}": report.task_mean(column) for column in ("success", *BASELINES)},
        "swapped_success": report.swapped_success,
        "swapped": [_counted_json(r, given_instruction=r.given_instruction) for r in report.swapped],
        "paraphrase_success": report.paraphrase_success,
        "paraphrases": [_counted_json(r, paraphrase=r.paraphrase) for r in report.paraphrases],
        **provenance_json(report),
    }


def write_report(report: Report, folder: Path) -> Path:
    """Write ``results.json`` and ``report.html`` into a folder, replacing older ones, and return the page's path.

    Raises:
        SaveError: a file cannot be written; the older one is unchanged.
        ModuleNotFoundError: matplotlib is not installed.
    """
    text = _page(report)
    write_text(folder / "results.json", json.dumps(results_json(report), indent=2, allow_nan=False) + "\n")
    write_text(folder / "report.html", text)
    return folder / "report.html"


def _page(report: Report) -> str:
    return render(
        "closed_loop.html",
        title=report.title,
        subtitle=report.subtitle,
        report=report,
        bars=[_bars(task, report.swapped) for task in report.tasks],
        curves=training_curves(report.metrics),
        episodes=[episode_card(episode) for episode in report.episodes],
    )


def _bars(task: TaskResult, swapped: Sequence[SwappedResult]) -> Markup:
    others = [result for result in swapped if result.task == task.task]
    rates: dict[str, tuple[float | None, tuple[float, float] | None]] = {
        "policy": (task.success, task.interval95),
        "expert": (task.expert, None),
        "replay": (task.blind, None),
        "random": (task.random, None),
        "swapped": (mean([result.success for result in others]), others[0].interval95 if len(others) == 1 else None),
    }
    return success_bars(f"Success rates of {task.task}", rates)


def _counted_json(result: Counted, **sentence: str) -> dict[str, Any]:
    counts = {"trials": result.trials, "success": result.success, "interval95": list(result.interval95)}
    return {"task": result.task, **sentence, **counts}


def _task_json(task: TaskResult) -> dict[str, Any]:
    return {
        **_counted_json(task, instruction=task.instruction),
        **{column: getattr(task, column) for column in (*BASELINES, "mean_steps", "clipped")},
        **({"returns": dict(task.returns), "scores": task.scores} if task.returns else {}),
    }
