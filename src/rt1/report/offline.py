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
from rt1.evaluate.offline import OfflineResult
from rt1.model.rt1 import RT1Config
from rt1.policy.agreement import ROUNDING
from rt1.report import offline_figures
from rt1.report.episodes import attention_card, episode_card
from rt1.report.html import render
from rt1.report.provenance import Provenance, provenance_json

PAGE_FILE, JSON_FILE = "offline.html", "offline.json"


@dataclass(frozen=True, kw_only=True)
class OfflineReport(Provenance):
    """All results of an offline evaluation, and its provenance."""

    result: OfflineResult
    network: RT1Config


def offline_json(report: OfflineReport) -> dict[str, Any]:
    """Return the figures as plain data for ``json``; docs/evaluation.md says what each means.

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
        SaveError: a file cannot be written; the older one is untouched.
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
        forms={
            "Streaming": result.streaming,
            "Windows, last step": result.window_last,
            "Windows, all steps": result.window_all,
        },
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
