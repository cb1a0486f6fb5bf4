"""An evaluation from start to end: trials, plots on held-out episodes, report."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from rt1.checkpoint import CheckpointInfo
from rt1.data.sources.base import EpisodeSource
from rt1.envs.base import TaskSuite
from rt1.evaluate.closed_loop import TrialSettings, evaluate_closed_loop
from rt1.evaluate.episode_choice import choose_episodes, choose_words
from rt1.evaluate.episode_trace import EpisodePlot, episode_plots
from rt1.evaluate.metrics import read_metrics
from rt1.policy.policy import Policy
from rt1.report.closed_loop import Report, write_report
from rt1.report.provenance import ProvenanceRecorder, ReportContext
from rt1.text.encoder import TextEncoder


def evaluate_checkpoint(
    checkpoint: Path | str,
    out: Path | str,
    *,
    suite: TaskSuite,
    settings: TrialSettings,
    source: EpisodeSource | None = None,
    encoder: TextEncoder | None = None,
    context: ReportContext | None = None,
) -> Report:
    """Evaluate a checkpoint closed loop and write ``results.json`` and ``report.html`` into ``out``.

    Args:
        checkpoint: checkpoint or run folder; a run folder's training curves are shown, too.
        out: output folder.
        suite: the environments.
        settings: tasks, trials, seed.
        source: recorded episodes, for plots on those held out from training; None leaves the plots out.
        encoder: text encoder; the one the checkpoint names if None.
        context: what the report says of its provenance.
    """
    with ProvenanceRecorder(checkpoint, context, embodiment=settings.embodiment) as recorder:
        folder, info = recorder.folder, recorder.info
        # First: damaged weights or data show here, in their own words, and not after minutes of trials.
        policy = Policy.from_checkpoint(
            folder,
            embodiment=settings.embodiment,
            text_encoder=encoder,
            cond_scale=settings.acting.cond_scale,
            setting=settings.acting.choice,
        )
        chosen = replace(settings.acting, backend=policy.setting, tune=False)
        settings = replace(settings, acting=chosen)
        plots = [] if source is None else _held_out_plots(policy, source, info, encoder)
        result = evaluate_closed_loop(folder, suite=suite, settings=settings, encoder=encoder)
    facts = recorder.facts(
        policy.model, title="Closed-loop evaluation", settings=_settings_table(suite, settings), notes=_NOTES
    )
    report = Report(
        tasks=result.tasks,
        swapped=result.swapped,
        paraphrases=result.paraphrases,
        episodes=plots,
        metrics=read_metrics(folder.parent),
        **facts,
    )
    write_report(report, Path(out))
    return report


_NOTES = (
    """The policy sees the camera image and the instruction, never the simulator's state. The success signal is used to
    count and to end an episode.""",
    """Trials start from odd environment seeds, recordings from even ones. No trial was ever recorded.""",
    """Open-loop replay: the actions of a successful expert episode with another initial state, without looking at any
    image. The last action is held until the step limit.""",
    """Swapped instruction: the same trials under the instruction of the task that shares the scene. The original goal
    counts.""",
    """Paraphrase: the same trials under a sentence that no recording uses.""",
)


def _held_out_plots(
    policy: Policy, source: EpisodeSource, info: CheckpointInfo, encoder: TextEncoder | None
) -> list[EpisodePlot]:
    chosen, words = choose_episodes(source, info.provenance), choose_words(source, info, encoder)
    return episode_plots(policy, source, chosen, words)


def _settings_table(suite: TaskSuite, settings: TrialSettings) -> dict[str, str]:
    acting, (height, width) = settings.acting, suite.image_size
    others = {name: value for name, value in suite.settings.items() if name not in ("image_size", "control_rate")}
    return {
        **({} if settings.embodiment is None else {"embodiment": settings.embodiment}),
        "environment": ", ".join([suite.name, *(f"{name} {value}" for name, value in others.items())]),
        "image": f"{height} x {width}",
        "control rate": f"{suite.control_rate:g} Hz",
        "trials per task": str(settings.trials),
        "evaluation seed": str(settings.seed),
        **({} if acting.cond_scale == 1.0 else {"guidance (cond_scale)": f"{acting.cond_scale:g}"}),
        **({} if acting.backend == "fp32" else {"backend of the policy": acting.backend}),
    }
