"""An offline evaluation from start to end: checkpoint and data in, report out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rt1.data.sources.base import EpisodeSource
from rt1.evaluate.episode_choice import EpisodeChoice, choose_episodes, choose_words
from rt1.evaluate.offline import evaluate_offline
from rt1.policy.policy import Policy
from rt1.report.offline import OfflineReport, write_offline_report
from rt1.report.provenance import ProvenanceRecorder, ReportContext
from rt1.text.encoder import TextEncoder

_NOTES = (
    """Offline numbers say how close the predictions come to the recorded actions at recorded images. They do not say
    whether the robot succeeds. Small errors add up, and there is often more than one good action.""",
)


@dataclass(frozen=True, kw_only=True)
class OfflineSettings:
    """What is evaluated, and how."""

    episodes: EpisodeChoice | None = None
    """Which episodes; None: see :func:`rt1.evaluate.episode_choice.choose_episodes`."""
    shown: int = 4
    """Episodes to plot."""
    embodiment: str | None = None
    """Embodiment of the policy, if the network has several."""
    cond_scale: float = 1.0
    """Guidance, see :class:`rt1.policy.stepper.Stepper`."""


def evaluate_recorded(
    checkpoint: Path | str,
    out: Path | str,
    source: EpisodeSource,
    *,
    settings: OfflineSettings | None = None,
    encoder: TextEncoder | None = None,
    context: ReportContext | None = None,
) -> OfflineReport:
    """Evaluate a checkpoint on recorded episodes and write ``offline.json`` and ``offline.html`` into ``out``.

    Args:
        checkpoint: checkpoint or run folder.
        out: output folder.
        source: recorded episodes.
        settings: which of them, and how.
        encoder: text encoder; None: the stored embeddings, or the encoder named by the checkpoint.
        context: further provenance for the report.
    """
    settings = settings or OfflineSettings()
    with ProvenanceRecorder(checkpoint, context, embodiment=settings.embodiment) as recorder:
        chosen = choose_episodes(source, recorder.info.provenance, settings.episodes)
        policy = Policy.from_checkpoint(
            recorder.folder, embodiment=settings.embodiment, text_encoder=encoder, cond_scale=settings.cond_scale
        )
        words = choose_words(source, recorder.info, encoder)
        result = evaluate_offline(policy, source, chosen, words, shown=settings.shown)
    title = f"Offline evaluation on {source.name}"
    table = {"data": source.name, "episodes": chosen.reason, "text embeddings": words.origin}
    if settings.embodiment is not None:
        table["embodiment"] = settings.embodiment
    if settings.cond_scale != 1.0:
        table["guidance (cond_scale)"] = f"{settings.cond_scale:g}"
    facts = recorder.facts(policy.sizes.parameters, title=title, settings=table, notes=_NOTES)
    report = OfflineReport(result=result, network=policy.model.config, **facts)
    write_offline_report(report, Path(out))
    return report
