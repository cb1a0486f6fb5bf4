"""The evaluation report: what was counted, as ``results.json`` and as one self-contained HTML page."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rt1.evaluate.episode_plot import EpisodePlot
from rt1.evaluate.results import (
    Counted,
    ParaphraseResult,
    SwappedResult,
    TaskResult,
    mean,
)
from rt1.files import write_text
from rt1.report import html as markup
from rt1.report import svg as plots
from rt1.report.episodes import episode_cards
from rt1.report.provenance import Made, made_json, made_section


@dataclass(frozen=True, kw_only=True)
class Report(Made):
    """Everything one evaluation found and how it was made."""

    tasks: Sequence[TaskResult]
    """One result per task, at least one."""
    swapped: Sequence[SwappedResult] = ()
    """Trials under another task's instruction."""
    paraphrases: Sequence[ParaphraseResult] = ()
    """Trials under a sentence not in the training text."""
    episodes: Sequence[EpisodePlot] = ()
    """Held-out episodes to plot."""
    metrics: Sequence[Mapping[str, Any]] = ()
    """Records of ``metrics.jsonl``."""

    def __post_init__(self) -> None:
        if not self.tasks:
            raise ValueError("a report of 0 tasks; it needs at least 1; evaluate a task first")

    def task_mean(self, column: str) -> float | None:
        """Return the mean over the tasks of ``success``, ``expert``, ``blind`` or ``random``, 0..1.

        ``None`` unless it was run on every task: a mean over other tasks would not compare.
        """
        return mean([getattr(task, column) for task in self.tasks])

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
        "mean_success": report.task_mean("success"),
        "mean_expert": report.task_mean("expert"),
        "mean_blind": report.task_mean("blind"),
        "mean_random": report.task_mean("random"),
        "swapped_success": report.swapped_success,
        "swapped": [_counted_json(r, given_instruction=r.given_instruction) for r in report.swapped],
        "paraphrase_success": report.paraphrase_success,
        "paraphrases": [_counted_json(r, paraphrase=r.paraphrase) for r in report.paraphrases],
        **made_json(report),
    }


def write_report(report: Report, folder: Path) -> Path:
    """Write ``results.json`` and ``report.html`` into a folder, replacing older ones.

    Args:
        report: what to write.
        folder: made where it is missing.

    Returns:
        Path of the page. It needs no network and no other file.

    Raises:
        SaveError: a file cannot be written; the older one is untouched.
        ModuleNotFoundError: matplotlib is not installed.
    """
    text = _page(report)
    write_text(folder / "results.json", json.dumps(results_json(report), indent=2, allow_nan=False) + "\n")
    write_text(folder / "report.html", text)
    return folder / "report.html"


def _page(report: Report) -> str:
    body = markup.fill(
        "rt1.report",
        "templates/closed_loop.html",
        task_table=_task_table(report),
        swapped_table=_counted_table(
            ("Original goal", "Instruction given instead", "Original goal reached"),
            [(result, result.given_instruction) for result in report.swapped],
        ),
        paraphrase_table=_counted_table(
            ("Task", "Paraphrase given", "Success"),
            [(result, result.paraphrase) for result in report.paraphrases],
        ),
        task_cards="\n".join(_task_card(task, report.swapped) for task in report.tasks),
        training=_training(report.metrics),
        episodes=episode_cards(report.episodes) or markup.absent("No held-out episode was plotted."),
        made=made_section(report),
    )
    return markup.page(title=report.title, subtitle=report.subtitle, headline=_headline(report), body=body)


def _headline(report: Report) -> str:
    success, blind = report.task_mean("success"), report.task_mean("blind")
    trials = sum(task.trials for task in report.tasks)
    scope = f"{_count(len(report.tasks), 'task')}, {_count(trials, 'trial')}"
    distance = ""
    if success is not None and blind is not None:
        side = "above" if success >= blind else "below"
        distance = f"the policy is {100 * abs(success - blind):.0f} points {side}"
    figures = (
        ("policy", "Mean success", success, scope),
        ("blind", "Blind floor", blind, distance),
        ("swapped", "Swapped instruction", report.swapped_success, "original goal reached; low is good"),
    )
    return markup.headline(
        [
            (key, name, "\N{EN DASH}" if rate is None else plots.percent(rate), "not run" if rate is None else note)
            for key, name, rate, note in figures
        ]
    )


def _task_table(report: Report) -> str:
    rows = [
        (
            f"{markup.escape(task.task)}<small>{markup.escape(task.instruction)}</small>",
            _counted(task),
            *(_rate(rate) for rate in (task.expert, task.blind, task.random)),
            f"{task.mean_steps:.1f}",
            str(task.clipped),
        )
        for task in report.tasks
    ]
    columns = ("success", "expert", "blind", "random")
    means = ("Mean", *(_rate(report.task_mean(column)) for column in columns), "", "")
    head = ("Task", "Policy", "Expert", "Blind", "Random", "Steps", "Clipped")
    return markup.table(head, rows, last=means)


def _counted_table(head: Sequence[str], results: Sequence[tuple[Counted, str]]) -> str:
    """Return the table of results, each with the sentence the policy was told."""
    if not results:
        return markup.absent("Not run in this evaluation.")
    rows = [(markup.escape(r.task), markup.escape(sentence), _counted(r)) for r, sentence in results]
    overall = _rate(mean([result.success for result, _ in results]))
    return markup.table(head, rows, last=("Mean", "", overall), sentence_column=1)


def _task_card(task: TaskResult, swapped: Sequence[SwappedResult]) -> str:
    others = [result for result in swapped if result.task == task.task]
    swapped_interval = others[0].interval95 if len(others) == 1 else None
    rates: dict[str, tuple[float | None, tuple[float, float] | None]] = {
        "policy": (task.success, task.interval95),
        "expert": (task.expert, None),
        "blind": (task.blind, None),
        "random": (task.random, None),
        "swapped": (mean([result.success for result in others]), swapped_interval),
    }
    return (
        f'<article class="card task"><header><h3>{markup.escape(task.task)}</h3>'
        f'<span class="quiet">{markup.escape(task.instruction)}</span></header>'
        f'<figure class="bars">{plots.success_bars(f"Success rates of {task.task}", rates)}</figure>'
        f"{_video(task, 'success', task.successes, task.success_video)}"
        f"{_video(task, 'failure', task.trials - task.successes, task.failure_video)}</article>"
    )


def _video(task: TaskResult, kind: str, count: int, data: bytes | None) -> str:
    if count == 0:
        return markup.no_video(f"no {kind} in {_count(task.trials, 'trial')}")
    caption = f"a {kind} ({count} of {_count(task.trials, 'trial')})"
    if data is None:
        return markup.no_video(f"no video was kept of {caption}")
    return markup.video(data, f"{task.task}: {caption}", caption)


def _training(metrics: Sequence[Mapping[str, Any]]) -> str:
    curves = plots.training_curves(metrics)
    if not curves:
        return markup.absent("No training record was given to this evaluation.")
    legend = markup.legend({"policy": "training", "swapped": "held out (dots)"})
    return legend + markup.plot_grid({markup.escape(title): svg for title, svg in curves.items()})


def _counted(result: Counted) -> str:
    low, high = result.interval95
    return (
        f"{_rate(result.success)} <small>[{100 * low:.0f}, {100 * high:.0f}] {result.successes}/{result.trials}</small>"
    )


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"


def _rate(rate: float | None) -> str:
    return "not run" if rate is None else plots.percent(rate)


def _counted_json(result: Counted, **sentence: str) -> dict[str, Any]:
    counts = {"trials": result.trials, "success": result.success, "interval95": list(result.interval95)}
    return {"task": result.task, **sentence, **counts}


def _task_json(task: TaskResult) -> dict[str, Any]:
    return {
        **_counted_json(task, instruction=task.instruction),
        "expert": task.expert,
        "blind": task.blind,
        "random": task.random,
        "mean_steps": task.mean_steps,
        "clipped": task.clipped,
    }
