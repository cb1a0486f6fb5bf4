"""The command ``rt1 evaluate``."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import tyro

from rt1.commands.options import (
    CheckpointPath,
    DataFormat,
    EncoderName,
    EnvOptions,
    ReportFolder,
    report_folder,
    simulation,
    text_encoder,
)
from rt1.data.open_data import DataOptions
from rt1.data.open_mixture import joined, open_mixture
from rt1.data.sources.base import EpisodeSource
from rt1.data.sources.concat import embodiments_of
from rt1.envs.registry import EnvSettings
from rt1.evaluate.closed_loop import TrialSettings
from rt1.evaluate.results import TaskResult
from rt1.report.closed_loop import evaluate_checkpoint
from rt1.report.provenance import ReportContext
from rt1.report.svg import require_figures


@dataclass(frozen=True, kw_only=True)
class EvaluateCommand:
    """Run a policy closed loop in a simulator, count its successes, and write a report."""

    checkpoint: CheckpointPath
    trials: tyro.conf.OmitArgPrefixes[TrialSettings] = field(default_factory=TrialSettings)
    """Settings of the trials."""
    out: ReportFolder = None
    data: tuple[str, ...] = ()
    """Recorded episodes, given as for rt1 train. The report shows some of them."""
    text_encoder: EncoderName = None
    env: EnvOptions = field(default_factory=EnvSettings)
    """Environment."""
    options: DataFormat = field(default_factory=DataOptions)

    def run(self, command: str) -> int:
        """Run the trials, print the success rates, and write the report."""
        require_figures()
        out = report_folder(self.out, self.checkpoint)
        encoder, embodiment = text_encoder(self.text_encoder), self.trials.embodiment
        suite, tasks = simulation(self.checkpoint, embodiment=embodiment, env=self.env, tasks=self.trials.tasks)
        report = evaluate_checkpoint(
            self.checkpoint,
            out,
            suite=suite,
            settings=replace(self.trials, tasks=tasks),
            source=open_source(self.data, self.options, embodiment) if self.data else None,
            encoder=encoder,
            context=ReportContext(command=command),
        )
        for task in report.tasks:
            print(_line(task))
        mean = f"{report.mean_score('policy'):.1f}" if report.measures_returns else f"{report.task_mean('success'):.0%}"
        print(f"mean {mean}, report: {out / 'report.html'}")
        return 0


def _line(task: TaskResult) -> str:
    """Return a task's result for the terminal."""
    if task.returns:
        columns = [f"{kind} {value:.1f} (score {task.scores[kind]:.1f})" for kind, value in task.returns.items()]
        return f"{task.task}: return of {', '.join(columns)}"
    low, high = task.interval95
    return f"{task.task}: {task.successes} of {task.trials} ({task.success:.0%}, 95 % {low:.0%}..{high:.0%})"


def open_source(data: tuple[str, ...], options: DataOptions, embodiment: str | None) -> EpisodeSource:
    """Return the episodes, numbered as in training. Of several embodiments, return only those of ``embodiment``."""
    source = joined(open_mixture(data, options))
    match = embodiments_of(source)
    return match.sources.get(embodiment or "", source) if match.several else source
