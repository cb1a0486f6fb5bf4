"""An evaluation from start to end: trials, plots on held-out episodes, report."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from rt1.checkpoint import CheckpointInfo
from rt1.data.sources.base import EpisodeSource
from rt1.envs.registry import EnvSettings
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
        chosen = replace(settings.acting, backend=policy.control.setting, tune=False)
        settings = replace(settings, acting=chosen)
        plots = [] if source is None else _held_out_plots(policy, source, info, encoder)
        result = evaluate_closed_loop(folder, env=env, settings=settings, encoder=encoder)
    facts = recorder.facts(
        policy.model, title="Closed-loop evaluation", settings=_settings_table(env, settings), notes=_NOTES
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


def _settings_table(env: EnvSettings, settings: TrialSettings) -> dict[str, str]:
    acting = settings.acting
    return {
        **({} if settings.embodiment is None else {"embodiment": settings.embodiment}),
        "environment": env.env,
        "image": f"{env.metaworld.image_size} x {env.metaworld.image_size}, camera {env.metaworld.camera}",
        "control rate": f"{env.metaworld.control_rate:g} Hz",
        "trials per task": str(settings.trials),
        "evaluation seed": str(settings.seed),
        **({} if acting.cond_scale == 1.0 else {"guidance (cond_scale)": f"{acting.cond_scale:g}"}),
        **({} if acting.backend == "fp32" else {"backend of the policy": acting.backend}),
    }
