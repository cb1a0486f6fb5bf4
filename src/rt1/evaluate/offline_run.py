"""An offline evaluation from start to end: checkpoint and data in, report out."""

from __future__ import annotations

from pathlib import Path

from rt1.data.episode import EpisodeSource
from rt1.evaluate.episode_choice import EpisodeChoice, choose_episodes, choose_words
from rt1.evaluate.made import Making, ReportContext
from rt1.evaluate.offline import evaluate_offline
from rt1.evaluate.offline_report import OfflineReport, write_offline_report
from rt1.policy import Policy
from rt1.text.encoder import TextEncoder

_NOTES = (
    """Offline numbers say how close the predictions come to the recorded actions at recorded images. They do not say
    whether the robot succeeds: small errors add up, and there is often more than one good action.""",
)


def evaluate_recorded(
    checkpoint: Path | str,
    out: Path | str,
    source: EpisodeSource,
    *,
    episodes: EpisodeChoice | None = None,
    shown: int = 4,
    encoder: TextEncoder | None = None,
    context: ReportContext | None = None,
) -> OfflineReport:
    """Evaluate a checkpoint on recorded episodes and write ``offline.json`` and ``offline.html`` into ``out``.

    Args:
        checkpoint: checkpoint or run folder.
        out: output folder.
        source: recorded episodes.
        episodes: which of them; None: see :func:`rt1.evaluate.episode_choice.choose_episodes`.
        shown: episodes to plot.
        encoder: text encoder; None takes the stored embeddings or the encoder the checkpoint names.
        context: what the report says of its making.
    """
    with Making(checkpoint, context) as making:
        chosen = choose_episodes(source, making.info.provenance, episodes)
        policy = Policy.from_checkpoint(making.folder, text_encoder=encoder)
        words = choose_words(source, making.info, encoder)
        result = evaluate_offline(policy, source, chosen, words, shown=shown)
    title = f"Offline evaluation on {source.name}"
    settings = {"data": source.name, "episodes": chosen.reason, "text embeddings": words.origin}
    facts = making.facts(policy.model, title=title, settings=settings, notes=_NOTES)
    report = OfflineReport(result=result, network=policy.model.config, **facts)
    write_offline_report(report, Path(out))
    return report
