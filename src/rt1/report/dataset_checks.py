"""Checks of a data set before training on it. docs/inspect.md has the cure of each."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

from rt1.data.statistics import spec_between
from rt1.data.survey import ActionSurvey, DataSurvey, ImageSurvey, TextSurvey
from rt1.report.svg import percent
from rt1.text.pieces import shared_text

Severity = Literal["error", "warning", "note"]

CHECKS: dict[str, Severity] = {
    "unreadable": "error",
    "video-frames": "error",
    "empty-instructions": "error",
    "shared-text-embedding": "error",
    "image-sizes": "error",
    "actions-not-finite": "error",
    "invalid-choice": "error",
    "flipped-images": "error",
    "swapped-colors": "error",
    "opposite-action": "error",
    "damaged-records": "warning",
    "timestamp-gaps": "warning",
    "other-task": "warning",
    "conflicting-texts": "warning",
    "unknown-words": "warning",
    "duplicate-episodes": "warning",
    "episode-lengths": "warning",
    "colors": "warning",
    "dark-images": "warning",
    "frozen-images": "warning",
    "rare-dimension": "warning",
    "clipped-actions": "warning",
    "outliers": "warning",
    "few-bins": "warning",
    "other-dimensions": "warning",
    "other-scale": "warning",
    "other-bounds": "warning",
    "other-rate": "warning",
    "other-image-size": "warning",
    "other-instructions": "warning",
    "constant-dimension": "note",
}
"""Name and severity of each check. Training refuses data with an error of its own kind, or learns the wrong thing."""

BGR_MARGIN = 5.0
"""An image counts as blue where the mean of blue exceeds the mean of red by more than this, of 255."""
BGR_SHARE = 2 / 3
"""Share of blue images from which red and blue are suspected to be exchanged.

Tables, wood, walls in lamp light and skin are redder than blue. On Bridge (kitchens) and in simulation no sampled image
is blue, and at least four in five are once red and blue are exchanged. A scene that is truly blue raises a false alarm.
A grey one hides an exchange.
"""
CLIPPED_SHARE = 0.01
"""Share of values outside the bounds from which it is noted."""
FEW_BINS = 16
"""Noted where 98 % of a dimension's values lie in fewer than 1 / FEW_BINS of the bins."""
RARE_SHARE = 0.95
"""Share of the steps with one value from which a dimension is noted as rarely used."""
DARK = 10.0
"""An image is dark where its mean is below this, of 255, and too bright above 255 minus it."""
DARK_SHARE = 0.05
"""Share of dark images from which they are noted."""
LONG = 10.0
"""An episode is noted where it has more than this many times the median number of steps, or fewer than 2 steps."""


@dataclass(frozen=True)
class Finding:
    """What a check found."""

    check: str
    """Key of :data:`CHECKS`."""
    message: str
    """What it is, and where, in a sentence."""

    @property
    def severity(self) -> Severity:
        return CHECKS[self.check]

    def __str__(self) -> str:
        return f"{self.severity} [{self.check}] {self.message}"

    def to_json(self) -> dict[str, str]:
        """Return plain data, with the place of the cure in the documents."""
        cure = f"docs/inspect.md#{self.check}"
        return {"check": self.check, "severity": self.severity, "message": self.message, "cure": cure}


def findings(survey: DataSurvey) -> list[Finding]:
    """Return what the checks found, errors first."""
    images, actions = survey.images, survey.actions
    return in_order([*_of_episodes(survey), *_of_texts(survey), *_of_images(images), *_of_actions(actions)])


def in_order(unordered: list[Finding]) -> list[Finding]:
    """Return findings, errors first, then warnings, then notes."""
    return sorted(unordered, key=lambda finding: ["error", "warning", "note"].index(finding.severity))


def _of_episodes(survey: DataSurvey) -> Iterator[Finding]:
    if survey.skipped:
        yield Finding(
            "damaged-records",
            f"left out as damaged: {_count(len(survey.skipped), 'record')}, the first: {survey.skipped[0]}",
        )
    if pairs := survey.duplicates:
        first, again = pairs[0]
        yield Finding(
            "duplicate-episodes",
            f"{_count(len(pairs), 'episode')} with the actions and the first image of an earlier one, the first is "
            f"{again}, which repeats {first}",
        )
    median = float(np.median(survey.lengths))
    odd = np.flatnonzero((survey.lengths < 2) | (survey.lengths > LONG * median))
    if len(odd):
        yield Finding(
            "episode-lengths",
            f"{_count(len(odd), 'episode')} of 1 step or more than {LONG:g} times the median of {median:g} steps, the "
            f"first is {odd[0]} with {_count(int(survey.lengths[odd[0]]), 'step')}",
        )


def _of_texts(survey: DataSurvey) -> Iterator[Finding]:
    if empty := survey.empty_instructions:
        yield Finding(
            "empty-instructions",
            f"empty instruction in {len(empty)} of {survey.instruction_episodes} episodes, the first is {empty[0]}. "
            "--skip-empty leaves them out",
        )
    if conflicts := survey.conflicting_texts:
        yield Finding(
            "conflicting-texts",
            f"text embeddings: {_count(len(conflicts), 'instruction')} with more than one embedding, the first is "
            f"{conflicts[0]!r}. No text table can be made of them. Name a text encoder",
        )
    for text in survey.texts:
        yield from _of_text(text)


def _of_text(text: TextSurvey) -> Iterator[Finding]:
    maker = "stored with the data" if text.maker == "stored" else f"of {text.maker}"
    if text.shared:
        yield Finding(
            "shared-text-embedding",
            f"{shared_text(text.shared)} have the same text embedding ({maker}). Name a text encoder that tells them "
            "apart",
        )
    if text.unknown:
        sentence, pieces = next(iter(text.unknown.items()))
        shown = ", ".join(map(repr, pieces[:5]))
        yield Finding(
            "unknown-words",
            f"{_count(len(text.unknown), 'instruction')} with pieces that {text.maker} does not know, the first is "
            f"{sentence!r} ({shown})",
        )


def _of_images(images: ImageSurvey) -> Iterator[Finding]:
    if len(images.sizes) > 1:
        yield Finding("image-sizes", f"images of {len(images.sizes)} sizes: {sizes(images)}")
    blue = float(np.mean(images.blue_minus_red > BGR_MARGIN))
    if blue >= BGR_SHARE:
        cure = (
            "they are declared BGR, but may be RGB"
            if images.declared_bgr
            else "red and blue may be exchanged (BGR), which the data set does not declare"
        )
        yield Finding(
            "colors", f"colors: in {percent(blue)} of the sampled images blue exceeds red: {cure}. Look at the images"
        )
    dark, bright = (float(np.mean(mask)) for mask in (images.brightness < DARK, images.brightness > 255 - DARK))
    if dark + bright >= DARK_SHARE:
        yield Finding(
            "dark-images", f"{percent(dark)} of the sampled images are black or nearly so, {percent(bright)} white"
        )
    if images.frozen:
        yield Finding(
            "frozen-images",
            f"the images do not change in {len(images.frozen)} of {images.moving_episodes} sampled episodes, the first "
            f"is {images.frozen[0]}",
        )


def _of_actions(actions: ActionSurvey) -> Iterator[Finding]:
    if actions.first_not_finite is not None:
        episode, step = actions.first_not_finite
        where = f"the first is step {step} of episode {episode}"
        yield Finding(
            "actions-not-finite",
            f"NaN or infinite action in {actions.not_finite} of {actions.steps} steps, {where}. Leave such steps out",
        )
    if actions.constant:
        yield Finding("constant-dimension", f"never changes: {', '.join(actions.constant)}")
    for index, name in enumerate(actions.spec.dimension_names):
        yield from _of_range(actions, index, name)
        if name not in actions.constant and not actions.spec.discrete_choices[index]:
            yield from _of_bins(actions, index, name)


def _of_range(actions: ActionSurvey, index: int, name: str) -> Iterator[Finding]:
    spec, statistics = actions.spec, actions.statistics
    choices, outside = int(spec.discrete_choices[index]), float(actions.outside[index])
    if choices and outside:
        what = f"{percent(outside)} of the values are none of the choices 0..{choices - 1}"
        yield Finding("invalid-choice", f"{name}: {what}. Encoding refuses them")
    elif outside >= CLIPPED_SHARE:
        yield Finding(
            "clipped-actions",
            f"{name}: {percent(outside)} of the values lie outside {spec.low[index]:g}..{spec.high[index]:g} "
            "and will be clipped",
        )
    if (place := actions.farthest[index]) is not None:
        low, high = statistics.q01[index], statistics.q99[index]
        episode, step = place
        yield Finding(
            "outliers",
            f"{name}: {_count(int(actions.outliers[index]), 'outlier')} far from {low:.3g}..{high:.3g}, which holds "
            f"98 % of the values, the farthest at step {step} of episode {episode}",
        )


def _of_bins(actions: ActionSurvey, index: int, name: str) -> Iterator[Finding]:
    spec, share = actions.spec, float(actions.most_common_share[index])
    if share >= RARE_SHARE:
        value = actions.most_common[index]
        decoded = spec.decode(spec.encode(actions.most_common))[index]
        change = f"The bins turn it into {decoded:.3g}, in every such step at the robot, too"
        kept = "The bins give it back exactly"
        yield Finding(
            "rare-dimension",
            f"{name}: {percent(share)} of the steps are exactly {value:g}. {kept if decoded == value else change}",
        )
    elif actions.bins_used[index] < spec.bins / FEW_BINS:
        yield Finding(
            "few-bins",
            f"{name}: 98 % of the values share {_count(int(actions.bins_used[index]), 'bin')} of {spec.bins}. "
            "Check the unit, or give narrower bounds",
        )


def sizes(images: ImageSurvey) -> str:
    """Return the sizes of the sampled images, height first, most frequent first. Of many only a few."""
    shown = [f"{height} x {width}" for height, width in list(images.sizes)[:5]]
    return ", ".join(shown) + (f" and {len(images.sizes) - 5} more" if len(images.sizes) > 5 else "")


def sampling(survey: DataSurvey) -> list[str]:
    """Return what was looked at, one sentence each: all of it, or how many of how many."""
    actions, sampled = survey.actions, len(survey.images.blue_minus_red)
    sentences = [
        f"instructions: {_of_all(survey.instruction_episodes, len(survey.lengths), 'episode')}",
        f"actions: {_of_all(actions.steps, survey.steps, 'step')}",
        f"images: {_of_all(sampled, survey.steps, 'step')}",
    ]
    tight = spec_between(actions.statistics.minimum, actions.statistics.maximum, parts={"all": actions.spec.size})
    if np.array_equal(tight.low, actions.spec.low) and np.array_equal(tight.high, actions.spec.high):
        sentences.append("bounds: the smallest and largest value of the data, so that nothing lies outside")
    return sentences


def _of_all(seen: int, total: int, thing: str) -> str:
    return f"all of {_count(total, thing)}" if seen == total else f"{seen:,} of {_count(total, thing)}, evenly spread"


def _count(number: int, thing: str) -> str:
    return f"{number:,} {thing}" if number == 1 else f"{number:,} {thing}s"
