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

from rt1.evaluate.offline import TOLERANCE, OfflineResult
from rt1.files import write_text
from rt1.model.rt1 import RT1Config
from rt1.report import html as markup
from rt1.report import offline_figures
from rt1.report.episodes import attention_cards, episode_cards
from rt1.report.provenance import Made, made_json, made_section
from rt1.report.svg import percent

PAGE_FILE, JSON_FILE = "offline.html", "offline.json"


@dataclass(frozen=True, kw_only=True)
class OfflineReport(Made):
    """Everything an offline evaluation found and how it was made."""

    result: OfflineResult
    """What was counted."""
    network: RT1Config
    """Sizes of the network."""


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
            "tolerance": TOLERANCE,
            "other_tokens": agreement.other_tokens,
            **_finite(
                {
                    "largest_difference": agreement.largest_difference,
                    "largest_logit": agreement.largest_logit,
                }
            ),
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
        **made_json(report),
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
    result, config = report.result, report.network
    counts, spec = result.counts, result.counts.action_spec
    rows, columns = config.grid
    continuous = np.flatnonzero(spec.discrete_choices == 0).tolist()
    body = markup.fill(
        "rt1.report",
        "templates/offline.html",
        episodes=markup.escape(_sentence(result.chosen.reason)),
        words=markup.escape(_told(result)),
        window=str(config.window),
        bins=str(spec.bins),
        form_table=_form_table(result),
        agreement=_agreement(result),
        dimension_table=_dimension_table(result),
        cards=episode_cards(result.plots) or markup.absent("No episode was plotted."),
        near=str(offline_figures.NEAR),
        near_legend=markup.legend({"policy": "right", "blind": "near", "swapped": "farther"}),
        near_figure=_near(result, continuous),
        confusion=_confusion(result),
        errors=_errors(result, continuous),
        ece=percent(counts.reliability().error),
        reliability=markup.plot_grid(
            {
                "accuracy by confidence": offline_figures.reliability_curve(counts.reliability()),
                "share of the tokens by confidence": offline_figures.confidence_histogram(counts.reliability()),
            }
        ),
        rows=str(rows),
        columns=str(columns),
        tokens=str(config.image_tokens),
        attention=attention_cards(result.plots) if result.plots else markup.absent("No episode was plotted."),
        made=made_section(report),
    )
    return markup.page(title=report.title, subtitle=report.subtitle, headline=_headline(result), body=body)


def _headline(result: OfflineResult) -> str:
    values, episodes = result.streaming.values(), len(result.chosen.numbers) - len(result.without_instruction)
    widest = max(result.streaming.within)
    error = values.get("l1_of_range")
    seen = {True: "held out", False: "trained on some", None: "held out: not known"}[result.chosen.held_out]
    return markup.headline(
        [
            ("policy", "Tokens exact", percent(values["accuracy"]), f"{result.streaming.steps:,} steps"),
            (
                "policy",
                f"Within {widest} bins",
                percent(values[f"within_{widest}_bins"]),
                f"of {result.counts.action_spec.bins}",
            ),
            (
                "policy",
                "Error",
                "\N{EN DASH}" if error is None else percent(error),
                "of the range" if error is not None else "no continuous dimension",
            ),
            ("recorded", "Episodes", f"{episodes:,}", seen),
        ]
    )


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."


def _told(result: OfflineResult) -> str:
    told = f"Text embeddings: {result.words.origin}."
    if left_out := result.without_instruction:
        told += f" {len(left_out)} episodes without an instruction were left out."
    return told


def _form_table(result: OfflineResult) -> str:
    forms = {
        "Streaming": result.streaming,
        "Windows, last step": result.window_last,
        "Windows, all steps": result.window_all,
    }
    within = result.streaming.within
    head = ("", "Loss", "Exact", *(f"Within {bins}" for bins in within), "Error", "Steps")
    rows = []
    for name, scores in forms.items():
        values = scores.values()
        shares = [values[key] for key in ("accuracy", *_within_keys(within))]
        error = percent(values["l1_of_range"]) if "l1_of_range" in values else "\N{EN DASH}"
        rows.append((name, f"{values['loss']:.3f}", *map(percent, shares), error, f"{scores.steps:,}"))
    return markup.table(head, rows)


def _within_keys(within: tuple[int, ...]) -> list[str]:
    return [f"within_{bins}_bin{'s' if bins > 1 else ''}" for bins in within]


def _agreement(result: OfflineResult) -> str:
    found = result.agreement
    size = f"largest difference {found.largest_difference:.2g} of logits up to {found.largest_logit:.3g}"
    where = "the first window of each episode and the last step of every other"
    if found.holds:
        return (
            f'<p class="quiet">Streaming and windows agree on all {found.steps:,} steps where both see the same '
            f"({where}): {size}, {found.other_tokens:,} tokens turned by rounding.</p>"
        )
    return (
        '<p class="warning"><strong>Streaming and windows disagree</strong> '
        f"where both see the same ({where}): {size}, "
        f"{found.other_tokens:,} other tokens. One of the two does not run the network as it should: trust neither.</p>"
    )


def _dimension_table(result: OfflineResult) -> str:
    spec, values = result.streaming.action_spec, result.streaming.values()
    commonest = result.counts.most_frequent()
    within = _within_keys(result.streaming.within)
    head = ("Dimension", "Loss", "Exact", "Commonest", *(f"Within {b}" for b in result.streaming.within))
    rows = []
    for index, name in enumerate(spec.dimension_names):
        is_choice = bool(spec.discrete_choices[index])
        wrong = percent(values[f"wrong_choice/{name}"]) if is_choice else f"{values[f'l1/{name}']:.3g}"
        rows.append(
            (
                markup.escape(name).replace("_", "_<wbr>"),
                f"{values[f'loss/{name}']:.3f}",
                percent(values[f"accuracy/{name}"]),
                percent(float(commonest[index])),
                *(percent(values[f"{key}/{name}"]) for key in within),
                wrong,
                "choice" if is_choice else f"{_bin_width(result, index):.2g}",
                percent(result.counts.reliability(index).error),
            )
        )
    return markup.table((*head, "Error", "Bin", "ECE"), rows)


def _bin_width(result: OfflineResult, index: int) -> float:
    spec = result.counts.action_spec
    return float(spec.high[index] - spec.low[index]) / (spec.bins - 1)


def _near(result: OfflineResult, continuous: list[int]) -> str:
    if not continuous:
        return markup.absent("Every dimension is a choice.")
    counts = np.sum([result.counts.differences(index) for index in continuous], axis=0)
    return markup.plot_grid({"all dimensions": offline_figures.near_diagonal(counts)})


def _confusion(result: OfflineResult) -> str:
    spec = result.counts.action_spec
    return markup.plot_grid(
        {
            markup.escape(name): offline_figures.confusion(
                name, result.counts.confusion_AVV[index], choices=int(spec.discrete_choices[index])
            )
            for index, name in enumerate(spec.dimension_names)
        }
    )


def _errors(result: OfflineResult, continuous: list[int]) -> str:
    if not continuous:
        return markup.absent("Every dimension is a choice.")
    names = result.counts.action_spec.dimension_names
    return markup.plot_grid(
        {
            markup.escape(names[index]): offline_figures.error_histogram(
                names[index], result.counts.differences(index), bin_width=_bin_width(result, index)
            )
            for index in continuous
        }
    )
