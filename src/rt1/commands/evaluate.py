"""The command ``rt1 evaluate``."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field, replace
from pathlib import Path

import tyro

from rt1.checkpoint import RUN_ORDER, load_info, resolve
from rt1.common.folders import check_folder
from rt1.common.json_config import MOST_EPISODES, MOST_PROCESSES, check_at_least, check_between
from rt1.data.embodiments import embodiments_of
from rt1.data.open_data import DataOptions
from rt1.data.open_mixture import joined, open_mixture
from rt1.data.sources.base import EpisodeSource
from rt1.envs.registry import EnvSettings
from rt1.evaluate.closed_loop import TrialSettings
from rt1.evaluate.episode_choice import EpisodeChoice
from rt1.policy.autotune import ActingSettings
from rt1.report.offline import JSON_FILE, PAGE_FILE
from rt1.report.provenance import ReportContext
from rt1.report.run_closed_loop import evaluate_checkpoint
from rt1.report.run_offline import OfflineSettings, evaluate_recorded
from rt1.report.svg import percent
from rt1.text.encoder import TextEncoder
from rt1.text.load import load_text_encoder


@dataclass(frozen=True, kw_only=True)
class EvaluateCommand:
    """Run a policy closed loop and count its successes, or hold it against recorded episodes; write a report."""

    checkpoint: Path
    """Checkpoint or run folder."""
    tasks: tuple[str, ...] = ()
    """Task names; those it was trained on if not given."""
    env: str | None = None
    """Environment name; metaworld if not given."""
    trials: int | None = None
    """Trials per task, 20 if not given; 0 for none, with recorded episodes."""
    seed: int = 0
    """Seed of the trials."""
    out: Path | None = None
    """Folder of the report; beside last/ and best/ in a run folder, else in the checkpoint's folder, if not given."""
    data: tuple[str, ...] = ()
    """Recorded episodes: a folder (RLDS, an Open X set, or LeRobot), or whatever the training was given. Alone, or with
    0 trials, the policy is held against them without an environment; where trials, tasks or an environment are given
    too, some of them are plotted."""
    episodes: EpisodeChoice | None = None
    """Which of them are evaluated: held-out, all, or so many; those held out from this checkpoint's training if not
    given, and all if it was trained on other data."""
    plots: int = 4
    """Of how many of them the page shows actions, images and attention."""
    options: tyro.conf.OmitArgPrefixes[DataOptions] = field(default_factory=DataOptions)
    """What the data set does not say of itself."""
    text_encoder: str | None = None
    """Text encoder: minilm, a table file, or an .onnx file; the one the checkpoint names if not given."""
    embodiment: str | None = None
    """Which embodiment acts, where the checkpoint has several."""
    acting: tyro.conf.OmitArgPrefixes[ActingSettings] = field(default_factory=ActingSettings)
    """How the network acts."""
    baselines: bool = True
    """Run the expert, the blind floor and random actions beside it."""
    paraphrases: bool = True
    """Run each task again under a sentence that no recording uses; a text table may not hold it."""
    workers: int = 0
    """Processes; 0 means one per core."""

    def __post_init__(self) -> None:
        check_between(self, 0, MOST_EPISODES, "trials", "plots")
        check_at_least(self, 0, "seed")
        check_between(self, 0, MOST_PROCESSES, "workers")
        if isinstance(self.episodes, int):
            check_at_least(self, 1, "episodes")

    def run(self, command: str) -> int:
        """Evaluate."""
        out = self.out or _report_folder(resolve(self.checkpoint))
        check_folder(out, ours=("results.json", JSON_FILE, *RUN_ORDER))
        encoder = None if self.text_encoder is None else load_text_encoder(self.text_encoder)
        context = ReportContext(command=command)
        wants_trials = self.trials is not None or bool(self.tasks) or self.env is not None
        if self.trials == 0 or (self.data and not wants_trials):
            return self._run_offline(out, encoder, context)
        return self._run_closed_loop(out, encoder, context)

    def _source(self) -> EpisodeSource:
        """Open the data as training does, so that episodes have the same numbers; of a mixture the embodiment's own."""
        source = joined(open_mixture(self.data, self.options))
        found = embodiments_of(source)
        return found.sources.get(self.embodiment or "", source) if found.several else source

    def _run_offline(self, out: Path, encoder: TextEncoder | None, context: ReportContext) -> int:
        if not self.data:
            raise ValueError("--trials 0 leaves nothing to evaluate; give recorded episodes with --data")
        if self.acting.wanted != "fp32":
            raise ValueError(
                f"the setting {self.acting.wanted!r} is for trials; recorded episodes are evaluated in fp32, in which "
                "acting step by step must agree with whole windows; leave --setting and --tune out"
            )
        report = evaluate_recorded(
            self.checkpoint,
            out,
            self._source(),
            settings=OfflineSettings(
                episodes=self.episodes, shown=self.plots, cond_scale=self.acting.cond_scale, embodiment=self.embodiment
            ),
            encoder=encoder,
            context=context,
        )
        result, agreement = report.result, report.result.agreement
        print(f"{result.source}: {result.chosen.reason}")
        if result.without_instruction:
            print(f"{len(result.without_instruction)} episodes without an instruction were left out")
        for name, scores in (
            ("streaming", result.streaming),
            ("windows, last steps", result.window_last),
            ("windows, all steps", result.window_all),
        ):
            values = scores.values()
            share = percent(values["accuracy"])
            print(f"{name:20s}loss {values['loss']:.3f}, {share} of the tokens exact, {scores.steps:,} steps")
        seen = f"largest difference {agreement.largest_difference:.2g} of logits up to {agreement.largest_logit:.3g}"
        if agreement.holds:
            print(f"streaming and windows agree on {agreement.steps:,} steps: {seen}")
        print(f"report: {out / PAGE_FILE}")
        if not agreement.holds:
            print(f"rt1: streaming and windows DISAGREE ({seen}); trust neither", file=sys.stderr)
        return 0 if agreement.holds else 1

    def _run_closed_loop(self, out: Path, encoder: TextEncoder | None, context: ReportContext) -> int:
        provenance = load_info(self.checkpoint, embodiment=self.embodiment).provenance
        env = EnvSettings.from_provenance(provenance)
        tasks = self.tasks or tuple(provenance.get("tasks", ()))
        if self.episodes is not None:
            raise ValueError(
                f"--episodes {self.episodes} is for recorded episodes, and these are trials; leave it out, or give "
                "--data without --trials, --tasks and --env"
            )
        if not tasks:
            raise ValueError(
                f"{self.checkpoint} names no tasks; give --tasks, or recorded episodes alone with --data and --trials 0"
            )
        trials = TrialSettings(
            tasks=tasks,
            trials=20 if self.trials is None else self.trials,
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
            env=env if self.env is None else replace(env, env=self.env),
            settings=trials,
            source=self._source() if self.data else None,
            encoder=encoder,
            context=context,
        )
        for task in report.tasks:
            low, high = task.interval95
            print(f"{task.task}: {task.successes} of {task.trials} ({task.success:.0%}, 95 % {low:.0%}..{high:.0%})")
        print(f"mean {report.task_mean('success'):.0%}; report: {out / 'report.html'}")
        return 0


def _report_folder(checkpoint: Path) -> Path:
    """Return where a checkpoint's report goes: not into last/ or best/, which the next saving replaces."""
    checkpoint = checkpoint if checkpoint.name else checkpoint.absolute()  # the current folder may be last/
    if checkpoint.name in RUN_ORDER:
        return checkpoint.parent / f"evaluation-{checkpoint.name}"
    return checkpoint / "evaluation"
