"""Warnings about a data set before training on it, as sentences."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from rt1.data.statistics import spec_between
from rt1.data.survey import ActionSurvey, DataSurvey, ImageSurvey
from rt1.report.svg import percent

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


def notes(survey: DataSurvey) -> list[str]:
    """Return the warnings, the most important first."""
    return [*_of_episodes(survey), *_of_images(survey.images), *_of_actions(survey.actions)]


def _of_episodes(survey: DataSurvey) -> Iterator[str]:
    if survey.skipped:
        yield f"left out as damaged: {_count(len(survey.skipped), 'record')}, the first: {survey.skipped[0]}"
    if empty := survey.empty_instructions:
        yield f"empty instruction in {len(empty)} of {survey.instruction_episodes} episodes, the first is {empty[0]}"

    if conflicts := survey.conflicting_texts:
        yield (
            f"text embeddings: {_count(len(conflicts), 'instruction')} with more than one embedding, the first is "
            f"{conflicts[0]!r}. No text table can be made of them. Name a text encoder"
        )


def _of_images(images: ImageSurvey) -> Iterator[str]:
    if len(images.sizes) > 1:
        yield f"images of {len(images.sizes)} sizes: {sizes(images)}"
    blue = float(np.mean(images.blue_minus_red > BGR_MARGIN))
    if blue >= BGR_SHARE:
        cure = (
            "they are declared BGR, but may be RGB"
            if images.declared_bgr
            else "red and blue may be exchanged (BGR), which the data set does not declare"
        )
        yield f"colors: in {percent(blue)} of the sampled images blue exceeds red: {cure}. Look at the images"


def _of_actions(actions: ActionSurvey) -> Iterator[str]:
    if actions.first_not_finite is not None:
        episode, step = actions.first_not_finite
        where = f"the first is step {step} of episode {episode}"
        yield f"NaN or infinite action in {actions.not_finite} of {actions.steps} steps, {where}. Leave such steps out"
    if actions.constant:
        yield f"never changes: {', '.join(actions.constant)}"
    for index, name in enumerate(actions.spec.dimension_names):
        yield from _of_dimension(actions, index, name)


def _of_dimension(actions: ActionSurvey, index: int, name: str) -> Iterator[str]:
    spec, statistics = actions.spec, actions.statistics
    choices, outside = int(spec.discrete_choices[index]), float(actions.outside[index])
    if choices and outside:
        what = f"{percent(outside)} of the values are none of the choices 0..{choices - 1}"
        yield f"{name}: {what}. Encoding refuses them"
    elif outside >= CLIPPED_SHARE:
        yield (
            f"{name}: {percent(outside)} of the values lie outside {spec.low[index]:g}..{spec.high[index]:g} "
            "and will be clipped"
        )
    if (place := actions.farthest[index]) is not None:
        low, high = statistics.q01[index], statistics.q99[index]
        episode, step = place
        yield (
            f"{name}: {_count(int(actions.outliers[index]), 'outlier')} far from {low:.3g}..{high:.3g}, which holds "
            f"98 % of the values, the farthest at step {step} of episode {episode}"
        )
    changes = statistics.minimum[index] < statistics.maximum[index]
    if changes and not choices and actions.bins_used[index] < spec.bins / FEW_BINS:
        yield (
            f"{name}: 98 % of the values share {_count(int(actions.bins_used[index]), 'bin')} of {spec.bins}. "
            "Check the unit, or give narrower bounds"
        )


def sizes(images: ImageSurvey) -> str:
    """Return the sizes of the sampled images, height first, most frequent first, at most five."""
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
