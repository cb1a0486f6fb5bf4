"""The report of an offline evaluation: ``offline.json`` and one self-contained page, ``offline.html``."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rt1.common.files import write_text
from rt1.common.json_config import MOST_EPISODES, check_at_least, check_between
from rt1.data.sources.base import EpisodeSource
from rt1.data.survey import spread
from rt1.evaluate.episode_choice import EpisodeChoice, choose_episodes, instruction_source
from rt1.evaluate.offline import OfflineResult, evaluate_offline
from rt1.evaluate.rerun_file import check_rerun_target, predicted_episode, write_rerun
from rt1.model.rt1 import RT1Config
from rt1.policy.agreement import ROUNDING
from rt1.policy.policy import Policy
from rt1.report import offline_figures
from rt1.report.html import attention_card, episode_card, render
from rt1.report.provenance import Provenance, ProvenanceRecorder, ReportContext, provenance_json
from rt1.text.encoder import TextEncoder

PAGE_FILE, JSON_FILE = "offline.html", "offline.json"
_NOTES = (
    """Offline numbers say how close the predictions come to the recorded actions at recorded images. They do not say
    whether the robot succeeds. Small errors add up, and there is often more than one good action.""",
)


@dataclass(frozen=True, kw_only=True)
class OfflineSettings:
    """What is evaluated, and how."""

    episodes: EpisodeChoice | None = None
    """Episodes to evaluate: held-out, all, or a number. Default: those held out from the training of this checkpoint,
    or all if it was trained on other data."""
    plots: int = 4
    """Number of episodes whose actions, images and attention the report shows."""
    rerun: Path | None = None
    """New .rrd file for the Rerun viewer, with as many episodes as the report shows (rt1[viz])."""
    embodiment: str | None = None
    """Embodiment that acts. Required if the checkpoint has several."""
    cond_scale: float = 1.0
    """Guidance scale. Above 1 the instruction counts more, 0 ignores it. It needs a network trained with text.drop."""

    def __post_init__(self) -> None:
        check_between(self, 0, MOST_EPISODES, "plots")
        check_between(self, 0, 1000, "cond_scale")
        if isinstance(self.episodes, int):
            check_at_least(self, 1, "episodes")


@dataclass(frozen=True, kw_only=True)
class OfflineReport(Provenance):
    """All results of an offline evaluation, and its provenance."""

    result: OfflineResult
    network: RT1Config


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
        encoder: text encoder. None takes the stored embeddings, or the encoder that the checkpoint names.
        context: further provenance for the report.
    """
    settings = settings or OfflineSettings()
    check_rerun_target(settings.rerun)
    with ProvenanceRecorder(checkpoint, context, embodiment=settings.embodiment) as recorder:
        chosen = choose_episodes(source, recorder.info.provenance, settings.episodes)
        policy = Policy.from_checkpoint(
            recorder.folder, embodiment=settings.embodiment, text_encoder=encoder, cond_scale=settings.cond_scale
        )
        words = instruction_source(source, recorder.info, encoder)
        result = evaluate_offline(policy, source, chosen, words, shown=settings.plots)
        if settings.rerun is not None:
            numbers = np.setdiff1d(chosen.numbers, result.without_instruction)
            shown = numbers[spread(len(numbers), settings.plots)].tolist()
            episodes = (predicted_episode(policy, source, number, words.of(source, number)) for number in shown)
            write_rerun(settings.rerun, source.name, episodes)
    table = {"data": source.name, "episodes": chosen.reason, "text embeddings": words.origin}
    facts = recorder.facts(policy, title=f"Offline evaluation on {source.name}", settings=table, notes=_NOTES)
    report = OfflineReport(result=result, network=policy.model.config, **facts)
    write_offline_report(report, Path(out))
    return report


def offline_json(report: OfflineReport) -> dict[str, Any]:
    """Return the figures as plain data for ``json``. docs/evaluate-offline.md says what each means.

    A number that is not finite, which only data or weights that are not finite give, is ``None``.
    """
    result, agreement = report.result, report.result.agreement
    reliability = result.counts.reliability()
    names = result.counts.action_spec.dimension_names
    return {
        "source": result.source,
        "episodes": len(result.chosen.numbers) - len(result.without_instruction),
        "episodes_are": result.chosen.reason,
        "held_out": result.chosen.held_out,
        "episodes_without_instruction": list(result.without_instruction),
        "text_embeddings": result.words.origin,
        "steps": result.streaming.steps,
        "windows": result.window_last.steps,
        "streaming": _finite(result.streaming.values()),
        "window_last_steps": _finite(result.window_last.values()),
        "window_all_steps": _finite(result.window_all.values()),
        "agreement": {
            "agrees": agreement.holds,
            "steps": agreement.steps,
            "tolerance": ROUNDING,
            "other_tokens": agreement.other_tokens,
            **_finite({"largest_difference": agreement.logit_difference, "largest_logit": agreement.largest_logit}),
        },
        "most_frequent_token": dict(zip(names, result.counts.most_frequent().tolist(), strict=True)),
        "calibration_error": _finite(
            {"all": reliability.error}
            | {name: result.counts.reliability(index).error for index, name in enumerate(names)}
        ),
        "reliability": [
            {"tokens": int(count), **_finite({"confidence": confidence, "accuracy": accuracy})}
            for count, confidence, accuracy in zip(
                reliability.count, reliability.confidence, reliability.accuracy, strict=True
            )
        ],
        "bins_off": {name: _bins_off(result.counts.differences(index)) for index, name in enumerate(names)},
        "checkpoint": report.checkpoint,
        **provenance_json(report),
    }


def write_offline_report(report: OfflineReport, folder: Path) -> Path:
    """Write ``offline.json`` and ``offline.html`` into a folder, replacing older ones, and return the page's path.

    Raises:
        SaveError: a file cannot be written. The older one is unchanged.
        ModuleNotFoundError: matplotlib is not installed.
    """
    page = _page(report)
    write_text(folder / JSON_FILE, json.dumps(offline_json(report), indent=2, allow_nan=False) + "\n")
    write_text(folder / PAGE_FILE, page)
    return folder / PAGE_FILE


def _finite(values: Mapping[str, float]) -> dict[str, float | None]:
    return {name: float(value) if math.isfinite(value) else None for name, value in values.items()}


def _bins_off(counts: NDArray[np.int64]) -> dict[str, int]:
    """Return how many tokens are how many bins off, those that occur."""
    middle = len(counts) // 2
    return {str(place - middle): int(counts[place]) for place in np.flatnonzero(counts)}


def _page(report: OfflineReport) -> str:
    result, counts = report.result, report.result.counts
    spec, names = counts.action_spec, counts.action_spec.dimension_names
    widths = (spec.high.astype(np.float64) - spec.low) / (spec.bins - 1)
    continuous = np.flatnonzero(spec.discrete_choices == 0).tolist()
    differences = {index: counts.differences(index) for index in continuous}
    return render(
        "offline.html",
        title=report.title,
        subtitle=report.subtitle,
        report=report,
        result=result,
        network=report.network,
        within={f"Within {bins}": f"within_{bins}_bin{'s' if bins > 1 else ''}" for bins in result.streaming.within},
        bin_widths=widths,
        near=offline_figures.NEAR,
        bins_off={"all dimensions": offline_figures.near_diagonal(np.sum([*differences.values()], axis=0))}
        if continuous
        else {},
        confusion={
            name: offline_figures.confusion(
                name, counts.confusion_AVV[index], choices=int(spec.discrete_choices[index])
            )
            for index, name in enumerate(names)
        },
        errors={
            names[index]: offline_figures.error_histogram(names[index], counted, bin_width=float(widths[index]))
            for index, counted in differences.items()
        },
        calibration={
            "accuracy by confidence": offline_figures.reliability_curve(counts.reliability()),
            "share of the tokens by confidence": offline_figures.confidence_histogram(counts.reliability()),
        },
        episodes=[episode_card(episode) for episode in result.plots],
        attention=[attention_card(episode) for episode in result.plots],
    )
