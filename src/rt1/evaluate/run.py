"""An evaluation from start to end: trials, plots on held-out episodes, report."""

from __future__ import annotations

import datetime
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from rt1.checkpoint import load_info, resolve
from rt1.data.episode import EpisodeSource
from rt1.evaluate.closed_loop import TrialSettings, evaluate_closed_loop
from rt1.evaluate.envs.open import EnvSettings
from rt1.evaluate.offline import episode_plots
from rt1.evaluate.report import Report, write_report
from rt1.machine import PeakMemory, commit, describe_machine
from rt1.metrics import read_metrics
from rt1.model.parameters import parameter_counts
from rt1.policy import Policy
from rt1.text.encoder import TextEncoder


@dataclass(frozen=True, kw_only=True)
class ReportContext:
    """What the report says of its making, beyond what the evaluation knows itself."""

    title: str = "Closed-loop evaluation"
    """Heading of the page."""
    command: str = ""
    """Command line that made it."""
    seconds: Mapping[str, float] = field(default_factory=dict)
    """Stages before the evaluation and their seconds."""
    peak_gb: float | None = None
    """Peak memory of the stages before, GB."""
    settings: Mapping[str, str] = field(default_factory=dict)
    """Further settings to show."""


def evaluate_checkpoint(
    checkpoint: Path | str,
    out: Path | str,
    *,
    env: EnvSettings,
    settings: TrialSettings,
    source: EpisodeSource | None = None,
    encoder: TextEncoder | None = None,
    context: ReportContext | None = None,
) -> Report:
    """Evaluate a checkpoint closed loop and write ``results.json`` and ``report.html`` into ``out``.

    Args:
        checkpoint: checkpoint or run folder; a run folder's training curves are shown, too.
        out: output folder.
        env: the environment.
        settings: tasks, trials, seed.
        source: the recorded episodes, for plots on those held out from training; None leaves the plots out.
        encoder: text encoder; the one the checkpoint names if None.
        context: what the report says of its making.
    """
    context = context or ReportContext()
    folder, info = resolve(checkpoint), load_info(checkpoint)
    started = time.monotonic()
    with PeakMemory() as memory:
        # First: damaged weights or data show here, in their own words, and not after minutes of trials.
        policy = Policy.from_checkpoint(folder, text_encoder=encoder)
        plots = [] if source is None else episode_plots(policy, source, info.provenance.get("held_out_episodes", []))
        result = evaluate_closed_loop(folder, env=env, settings=settings, encoder=encoder)
    peaks = [gb for gb in (context.peak_gb, memory.gigabytes) if gb is not None]
    report = Report(
        title=context.title,
        command=context.command,
        commit=commit(),
        machine=describe_machine(),
        date=datetime.datetime.now(tz=datetime.UTC).date().isoformat(),
        checkpoint=f"{folder.name} at update {info.provenance.get('update', '?')}",
        seconds={**context.seconds, "evaluate": time.monotonic() - started},
        peak_gb=max(peaks) if peaks else None,
        parameters=parameter_counts(policy.model)["total"],
        tasks=result.tasks,
        swapped=result.swapped,
        paraphrases=result.paraphrases,
        episodes=plots,
        metrics=read_metrics(folder.parent),
        settings={**context.settings, **_settings_table(env, settings)},
        notes=[" ".join(note.split()) for note in _NOTES],
    )
    write_report(report, Path(out))
    return report


_NOTES = (
    """The policy sees the camera image and the instruction, never the simulator's state; the success signal is used
    for counting and to end an episode.""",
    """Trials start from odd environment seeds, recordings from even ones: no trial was ever recorded.""",
    """Blind: a successful expert episode with another start is replayed without looking, its last action held until
    the step limit.""",
    """Swapped: the same trials under the instruction of the task that shares the scene; the original goal counts.""",
    """Paraphrase: the same trials under a sentence that no recording uses.""",
)


def _settings_table(env: EnvSettings, settings: TrialSettings) -> dict[str, str]:
    return {
        "environment": env.env,
        "image": f"{env.metaworld.image_size} x {env.metaworld.image_size}, camera {env.metaworld.camera}",
        "control rate": f"{env.metaworld.control_rate:g} Hz",
        "trials per task": str(settings.trials),
        "evaluation seed": str(settings.seed),
    }
