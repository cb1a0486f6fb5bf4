"""The report of ``rt1 improve``: success by round, with and without the collected episodes."""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from rt1.common.files import write_text
from rt1.common.json_config import to_json
from rt1.common.system import commit, describe_machine
from rt1.evaluate.results import SuccessCount
from rt1.report.html import render
from rt1.report.svg import INKS, panel, percent
from rt1.train.self_improvement import Improvement, Round, success


def write_report(improvement: Improvement, *, command: str = "") -> Path:
    """Write ``results.json`` and ``report.html`` into the improvement's folder, and return the page's path."""
    about = {"commit": commit(), "machine": describe_machine(), "command": command}
    write_text(improvement.folder / "results.json", json.dumps({**results_json(improvement), **about}, indent=1) + "\n")
    write_text(improvement.folder / "report.html", _page(improvement, about))
    return improvement.folder / "report.html"


def results_json(improvement: Improvement) -> dict[str, Any]:
    """Return the figures as plain data: per round the counts and the mean success rates, 0..1."""
    return {
        "row": improvement.training,
        "rounds": [
            {**to_json(r), "improved_success": success(r.improved), "control_success": success(r.control)}
            for r in improvement.rounds
        ],
        "cpu_seconds": dict(improvement.cpu_seconds),
        "finished": improvement.finished,
    }


def _page(improvement: Improvement, about: Mapping[str, str]) -> str:
    date = datetime.datetime.now(tz=datetime.UTC).date().isoformat()
    tasks = ", ".join(counted.task for counted in improvement.rounds[0].improved)
    return render(
        "self_improvement.html",
        title="Expert corrections" if improvement.expert else "Self-improvement",
        subtitle=f"{tasks}, {date}{'' if improvement.finished else ', stopped by its budget: it can be resumed'}",
        improvement=improvement,
        success=success,
        plot=_plot(improvement.rounds),
        about=about,
    )


def _plot(rounds: Sequence[Round]) -> Markup:
    with panel("success rate by round") as (axes, svg):
        for arm, ink in (("improved", "policy"), ("control", "swapped")):
            points = [(r.number, getattr(r, arm)) for r in rounds if getattr(r, arm)]
            for shift, (number, trials) in ((0.03 if arm == "control" else -0.03, point) for point in points):
                low, high = _interval(trials)
                axes.plot([number + shift] * 2, [low, high], color=INKS[ink], linewidth=1.0)
            x, y = [number for number, _ in points], [success(trials) or 0.0 for _, trials in points]
            axes.plot(x, y, "o-" if arm == "improved" else "o--", color=INKS[ink], markersize=4)
        axes.set_ylim(0, 1)
        axes.set_xlabel("round")
        axes.set_xticks([r.number for r in rounds])
        axes.yaxis.set_major_formatter(lambda value, _: percent(value))
    return svg()


def _interval(trials: tuple[SuccessCount, ...]) -> tuple[float, float]:
    pooled = SuccessCount(task="all", trials=sum(c.trials for c in trials), successes=sum(c.successes for c in trials))
    return pooled.interval95
