"""The command ``rt1 evaluate``."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import tyro

from rt1.checkpoint import RUN_ORDER, load_info, resolve
from rt1.commands.options import DataFormat, report_folder
from rt1.common.folders import check_folder
from rt1.common.json_config import MOST_EPISODES, MOST_PROCESSES, check_at_least, check_between
from rt1.data.open_data import DataOptions
from rt1.data.open_mixture import joined, open_mixture
from rt1.data.sources.base import EpisodeSource
from rt1.data.sources.concat import embodiments_of
from rt1.envs.registry import suite_of
from rt1.evaluate.closed_loop import TrialSettings
from rt1.policy.autotune import ActingSettings
from rt1.report.offline import JSON_FILE
from rt1.report.provenance import ReportContext
from rt1.report.run_closed_loop import evaluate_checkpoint
from rt1.report.svg import require_figures
from rt1.text.load import load_text_encoder


@dataclass(frozen=True, kw_only=True)
class EvaluateCommand:
    """Run a policy closed loop in a simulator, count its successes, and write a report."""

    checkpoint: tyro.conf.Positional[Path]
    """Checkpoint or run folder."""
    tasks: tuple[str, ...] = ()
    """Task names. Default: the tasks of the training data."""
    trials: int = 20
    """Trials per task."""
    seed: int = 0
    """Seed of the trials."""
    out: Path | None = None
    """Folder of the report. Default: evaluation-last/ in the run folder, or evaluation/ in the checkpoint folder."""
    env: str | None = None
    """Environment name. Default: that of the training data."""
    workers: int = 0
    """Number of processes. 0 means one per core."""
    baselines: bool = True
    """Also run the scripted expert, open-loop replay and random actions."""
    paraphrases: bool = True
    """Also run each task with a paraphrase that no recording contains. A text table may lack it."""
    data: tuple[str, ...] = ()
    """Recorded episodes, given as for rt1 train. The report shows some of them."""
    text_encoder: str | None = None
    """Text encoder: minilm, a table file, or an .onnx file. Default: the one that the checkpoint names."""
    embodiment: str | None = None
    """Embodiment that acts. Required if the checkpoint has several."""
    acting: tyro.conf.OmitArgPrefixes[ActingSettings] = field(default_factory=ActingSettings)
    """How the network runs."""
    options: DataFormat = field(default_factory=DataOptions)
    """How to read a data set that does not describe itself."""

    def __post_init__(self) -> None:
        if self.trials == 0:
            raise ValueError(
                "trials is 0, must be at least 1. For recorded episodes use rt1 evaluate-offline RUN --data DATA"
            )
        check_between(self, 1, MOST_EPISODES, "trials")
        check_at_least(self, 0, "seed")
        check_between(self, 0, MOST_PROCESSES, "workers")

    def run(self, command: str) -> int:
        """Run the trials, print the success rates, and write the report."""
        require_figures()
        out = self.out or report_folder(resolve(self.checkpoint))
        check_folder(out, ours=("results.json", JSON_FILE, *RUN_ORDER))
        encoder = None if self.text_encoder is None else load_text_encoder(self.text_encoder)
        provenance = load_info(self.checkpoint, embodiment=self.embodiment).provenance
        suite = suite_of(provenance, self.env)
        tasks = self.tasks or tuple(provenance.get("tasks", ()))
        if not tasks:
            raise ValueError(
                f"{self.checkpoint} names no tasks. Give --tasks, or use rt1 evaluate-offline for recorded episodes"
            )
        trials = TrialSettings(
            tasks=tasks,
            trials=self.trials,
            seed=self.seed,
            baselines=self.baselines,
            paraphrases=self.paraphrases,
            embodiment=self.embodiment,
            acting=self.acting,
            workers=self.workers,
        )
        report = evaluate_checkpoint(
            self.checkpoint,
            out,
            suite=suite,
            settings=trials,
            source=open_source(self.data, self.options, self.embodiment) if self.data else None,
            encoder=encoder,
            context=ReportContext(command=command),
        )
        for task in report.tasks:
            low, high = task.interval95
            print(f"{task.task}: {task.successes} of {task.trials} ({task.success:.0%}, 95 % {low:.0%}..{high:.0%})")
        print(f"mean {report.task_mean('success'):.0%}, report: {out / 'report.html'}")
        return 0


def open_source(data: tuple[str, ...], options: DataOptions, embodiment: str | None) -> EpisodeSource:
    """Return the episodes, numbered as in training. Of several embodiments, return only those of ``embodiment``."""
    source = joined(open_mixture(data, options))
    match = embodiments_of(source)
    return match.sources.get(embodiment or "", source) if match.several else source
