"""A whole closed-loop evaluation: trials, plots of held-out episodes, report."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

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
        checkpoint: checkpoint or run folder; of a run folder the training curves are shown too.
        out: output folder.
        suite: the environments.
        settings: tasks, trials, seed.
        source: recorded episodes, to plot held-out ones; None: no plots.
        encoder: text encoder; None: the one named by the checkpoint.
        context: further provenance for the report.
    """
    with ProvenanceRecorder(checkpoint, context, embodiment=settings.embodiment) as recorder:
        folder = recorder.folder
        # Damaged weights or data must raise here, not after minutes of trials.
        policy = Policy.from_checkpoint(
            folder,
            embodiment=settings.embodiment,
            text_encoder=encoder,
            **vars(settings.acting),
        )
        settings = replace(settings, acting=replace(settings.acting, engine=policy.engine))
        plots: list[EpisodePlot] = []
        if source is not None:
            chosen = choose_episodes(source, recorder.info.provenance)
            plots = episode_plots(policy, source, chosen, choose_words(source, recorder.info, encoder))
        result = evaluate_closed_loop(folder, suite=suite, settings=settings, encoder=encoder)
    facts = recorder.facts(
        policy.sizes.parameters, title="Closed-loop evaluation", settings=_settings_table(suite, settings), notes=_NOTES
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
        **({} if acting.engine in (None, "torch") else {"engine of the policy": acting.engine}),
    }
