"""The command ``rt1 evaluate``."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated

import tyro

from rt1.commands.options import (
    DataFormat,
    EnvOptions,
    ReportFolder,
    report_folder,
    simulation,
    simulator,
    text_encoder,
)
from rt1.commands.policy_options import EncoderName
from rt1.data.open_data import DataOptions
from rt1.data.open_mixture import joined, open_mixture
from rt1.data.sources.base import EpisodeSource
from rt1.data.sources.concat import embodiments_of
from rt1.envs.base import TaskSuite
from rt1.envs.protocol import protocol_of
from rt1.envs.registry import EnvSettings
from rt1.evaluate.closed_loop import TrialSettings
from rt1.evaluate.outcomes import Shard
from rt1.evaluate.results import TaskResult
from rt1.report.closed_loop import Report, evaluate_checkpoint, merge_shards
from rt1.report.provenance import ReportContext
from rt1.report.shards import evaluate_shard, shard_files
from rt1.report.svg import require_figures


@dataclass(frozen=True, kw_only=True)
class EvaluateCommand:
    """Run a policy closed loop in a simulator, count its successes, and write a report."""

    checkpoint: Annotated[
        tyro.conf.Positional[Path | None], tyro.conf.arg(help="Checkpoint, run folder, or exported folder.")
    ] = None
    trials: tyro.conf.OmitArgPrefixes[TrialSettings] = field(default_factory=TrialSettings)
    """Settings of the trials."""
    out: ReportFolder = None
    data: tuple[str, ...] = ()
    """Recorded episodes, given as for rt1 train. The report shows some of them."""
    text_encoder: EncoderName = None
    shard: str | None = None
    """Share of the trials to run, as K/N, for example 3/8. Other machines run the other shares."""
    merge: tuple[Path, ...] = ()
    """Folders with the files of all shards, to make one report of. It goes into the first one by default."""
    env: EnvOptions = field(default_factory=EnvSettings)
    """Environment."""
    options: DataFormat = field(default_factory=DataOptions)

    def __post_init__(self) -> None:
        if (self.checkpoint is None) == (not self.merge):
            raise ValueError(f"checkpoint is {self.checkpoint}, must be one, or none with --merge. Name a run folder")
        if self.shard is not None:
            Shard.parse(self.shard)
            if self.data:
                raise ValueError(f"data is {self.data[0]}, but a shard has no page to show episodes on. Leave it out")

    def run(self, command: str) -> int:
        """Run the trials, print the success rates, and write the report."""
        if self.shard is None:  # a shard has no page
            require_figures()
        if self.checkpoint is None:
            out = report_folder(self.out or shard_files(self.merge)[0].parent, self.merge[0])
            _print(merge_shards(self.merge, out), out)
            return 0
        out, encoder = report_folder(self.out, self.checkpoint), text_encoder(self.text_encoder)
        suite, settings = self._trials(self.checkpoint)
        context = ReportContext(command=command)
        if self.shard is not None:
            path = evaluate_shard(
                self.checkpoint,
                out,
                Shard.parse(self.shard),
                suite=suite,
                settings=settings,
                encoder=encoder,
                context=context,
            )
            print(f"shard {self.shard}: {path}. When all are done: rt1 evaluate --merge {out}")
            return 0
        report = evaluate_checkpoint(
            self.checkpoint,
            out,
            suite=suite,
            settings=settings,
            source=open_source(self.data, self.options, settings.embodiment) if self.data else None,
            encoder=encoder,
            context=context,
        )
        _print(report, out)
        return 0

    def _trials(self, checkpoint: Path) -> tuple[TaskSuite, TrialSettings]:
        embodiment = self.trials.embodiment
        if self.trials.protocol is not None:  # which sets the tasks
            suite = simulator(checkpoint, embodiment=embodiment, env=self.env)
            for name in protocol_of(suite, self.trials.protocol).env:
                if (value := getattr(self.env, name, None)) is not None:
                    raise ValueError(f"{name} is {value}, but {self.trials.protocol} sets it. Leave it out")
            return suite, self.trials
        suite, tasks = simulation(checkpoint, embodiment=embodiment, env=self.env, tasks=self.trials.tasks)
        return suite, replace(self.trials, tasks=tasks)


def _print(report: Report, out: Path) -> None:
    for task in report.tasks:
        print(_line(task))
    for protocol in report.protocols:
        groups = ", ".join(f"{group} {rate:.1%}" for group, rate in report.groups(protocol).items())
        score = f"{report.protocol_score(protocol):.1%}, {protocol.score.replace('_', ' ')}"
        print(f"{protocol.name}: {score} ({groups}; {report.row})")
    mean = f"{report.mean_score('policy'):.1f}" if report.measures_returns else f"{report.task_mean('success'):.0%}"
    print(f"mean {mean}, report: {out / 'report.html'}")


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
