"""The command ``rt1 evaluate``."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from rt1.checkpoint import RUN_ORDER, load_info, resolve
from rt1.data.open_data import DataOptions, open_data
from rt1.evaluate.closed_loop import TrialSettings
from rt1.evaluate.envs.open import EnvSettings
from rt1.evaluate.run import ReportContext, evaluate_checkpoint
from rt1.text.load import load_text_encoder


@dataclass(frozen=True, kw_only=True)
class EvaluateCommand:
    """Run a policy closed loop, count its successes, write a report."""

    checkpoint: Path
    """Checkpoint or run folder."""
    tasks: tuple[str, ...] = ()
    """Task names; those it was trained on if not given."""
    env: str = "metaworld"
    """Environment name."""
    trials: int = 20
    """Trials per task."""
    seed: int = 0
    """Seed of the trials."""
    out: Path | None = None
    """Folder of the report; beside last/ and best/ in a run folder, else in the checkpoint's folder, if not given."""
    data: Path | None = None
    """The data set it was trained on, for plots on held-out episodes."""
    text_encoder: str | None = None
    """Text encoder: minilm, a table file, or an .onnx file; the one the checkpoint names if not given."""
    baselines: bool = True
    """Run the expert, the blind floor and random actions beside it."""
    workers: int = 0
    """Processes; 0 means one per core."""

    def run(self, command: str) -> int:
        """Evaluate."""
        provenance = load_info(self.checkpoint).provenance
        env = EnvSettings.from_provenance(provenance)
        tasks = self.tasks or tuple(provenance.get("tasks", ()))
        trials = TrialSettings(
            tasks=tasks, trials=self.trials, seed=self.seed, baselines=self.baselines, workers=self.workers
        )
        out = self.out or _report_folder(resolve(self.checkpoint))
        source = None if self.data is None else open_data(self.data, DataOptions())
        encoder = None if self.text_encoder is None else load_text_encoder(self.text_encoder)
        report = evaluate_checkpoint(
            self.checkpoint,
            out,
            env=replace(env, env=self.env),
            settings=trials,
            source=source,
            encoder=encoder,
            context=ReportContext(command=command),
        )
        for task in report.tasks:
            low, high = task.interval95
            print(f"{task.task}: {task.successes} of {task.trials} ({task.success:.0%}, 95 % {low:.0%}..{high:.0%})")
        print(f"mean {report.task_mean('success'):.0%}; report: {out / 'report.html'}")
        return 0


def _report_folder(checkpoint: Path) -> Path:
    """Return where a checkpoint's report goes: not into last/ or best/, which the next saving replaces."""
    if checkpoint.name in RUN_ORDER:
        return checkpoint.parent / f"evaluation-{checkpoint.name}"
    return checkpoint / "evaluation"
