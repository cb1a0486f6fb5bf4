"""The page of an improvement: success by round, with and without the policy's own episodes."""

from __future__ import annotations

import datetime
import json
from pathlib import Path
from typing import Any

from rt1.evaluate.results import Counted
from rt1.files import write_text
from rt1.improve.loop import Improvement, Round, success
from rt1.machine import commit, describe_machine
from rt1.report import html as markup
from rt1.report import svg as plots

_IMPROVED, _CONTROL = "with its own episodes", "recorded episodes only"


def write_report(found: Improvement, *, command: str = "") -> Path:
    """Write ``results.json`` and ``report.html`` into the improvement's folder; return the page's path."""
    about = {"commit": commit(), "machine": describe_machine(), "command": command}
    write_text(found.folder / "results.json", json.dumps({**results_json(found), **about}, indent=1) + "\n")
    write_text(found.folder / "report.html", _page(found, about))
    return found.folder / "report.html"


def results_json(found: Improvement) -> dict[str, Any]:
    """Return the figures as plain data: per round the counts and the mean success rates, 0..1."""
    return {
        "rounds": [
            {**r.to_json(), "improved_success": success(r.improved), "control_success": success(r.control)}
            for r in found.rounds
        ],
        "cpu_seconds": dict(found.cpu_seconds),
        "finished": found.finished,
    }


def _page(found: Improvement, about: dict[str, str]) -> str:
    first, last = found.rounds[0], found.rounds[-1]
    figures = [
        ("recorded", "Before", _rate(first.improved), "recorded episodes only"),
        ("policy", f"After round {last.number}", _rate(last.improved), "learning from its own successes, too"),
    ]
    if last.control:
        figures.append(("swapped", "Without them", _rate(last.control), "as many updates on the recorded episodes"))
    minutes = sum(found.cpu_seconds.values()) / 60
    figures.append(("random", "CPU time", f"{minutes:.0f} min", ", ".join(_stages(found))))
    rows = [row for r in found.rounds for row in _rows(r)]
    head = ("Round", "Task", "Starts", "Kept", f"Success {_IMPROVED}", f"Success with {_CONTROL}")
    body = (
        f"<section><h2>Success by round</h2>{_plot(found)}"
        f"{markup.legend({'policy': _IMPROVED, 'swapped': _CONTROL} if last.control else {'policy': _IMPROVED})}"
        f"<p>Every round's trials start alike, and as no recorded or collected episode does. Thin lines are 95 % "
        f"Wilson intervals.</p></section>"
        f"<section><h2>Rounds</h2>{markup.table(head, rows)}</section>"
        f"<section><h2>How it was made</h2>{_about(about)}</section>"
    )
    date = datetime.datetime.now(tz=datetime.UTC).date().isoformat()
    state = "" if found.finished else "; the budget ended it, it can go on"
    tasks = ", ".join(counted.task for counted in first.improved)
    return markup.page(
        title="Learning from its own successes",
        subtitle=f"{tasks}; {date}{state}",
        headline=markup.headline(figures),
        body=body,
    )


def _stages(found: Improvement) -> list[str]:
    return [f"{kind} {seconds / 60:.0f}" for kind, seconds in found.cpu_seconds.items()]


def _rate(trials: tuple[Counted, ...]) -> str:
    mean = success(trials)
    return "-" if mean is None else f"{mean:.0%}"


def _rows(found: Round) -> list[tuple[str, ...]]:
    control = {counted.task: counted for counted in found.control}
    return [
        (
            str(found.number),
            markup.escape(counted.task),
            str(found.attempts.get(counted.task, "")),
            str(found.kept.get(counted.task, "")),
            _counted(counted),
            _counted(control[counted.task]) if counted.task in control else "-",
        )
        for counted in found.improved
    ]


def _counted(counted: Counted) -> str:
    low, high = counted.interval95
    return f"{counted.success:.0%} ({counted.successes}/{counted.trials}; {low:.0%}..{high:.0%})"


def _about(about: dict[str, str]) -> str:
    rows = [(name, markup.escape(about[name])) for name in ("commit", "machine")]
    command = f'<p class="quiet">Command</p>\n<pre><code>{markup.escape(about["command"])}</code></pre>\n'
    return command + markup.table(("Made from", ""), rows, sentence_column=1)


def _plot(found: Improvement) -> str:
    with plots.panel("success rate by round") as (axes, svg):
        for arm, ink in (("improved", "policy"), ("control", "swapped")):
            points = [(r.number, getattr(r, arm)) for r in found.rounds if getattr(r, arm)]
            for shift, (number, trials) in ((0.03 if arm == "control" else -0.03, point) for point in points):
                low, high = _interval(trials)
                axes.plot([number + shift] * 2, [low, high], color=plots.INKS[ink], linewidth=1.0)
            x, y = [number for number, _ in points], [success(trials) or 0.0 for _, trials in points]
            axes.plot(x, y, "o-" if arm == "improved" else "o--", color=plots.INKS[ink], markersize=4)
        axes.set_ylim(0, 1)
        axes.set_xlabel("round")
        axes.set_xticks([r.number for r in found.rounds])
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    return markup.plot_grid({"mean over tasks": svg.getvalue()})


def _interval(trials: tuple[Counted, ...]) -> tuple[float, float]:
    pooled = Counted(task="all", trials=sum(c.trials for c in trials), successes=sum(c.successes for c in trials))
    return pooled.interval95
