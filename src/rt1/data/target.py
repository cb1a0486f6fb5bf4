"""Whether a data set fits what is going to act: an environment, or a policy that was trained already."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rt1.actions import ActionSpec
from rt1.data.compare import Difference, finite_actions, matched_names, name_differences
from rt1.data.sources.base import EpisodeSource, optional_members
from rt1.data.sources.decoding import decoded_images
from rt1.envs.base import TaskSuite, action_spec_of
from rt1.text.pieces import normalized

_OUTSIDE = 0.01  # share of values outside the bounds from which it is noted
_NARROW = 0.1  # of the bounds, which 98 % of the values fill or not
_RATE_ERROR = 0.01


@dataclass(frozen=True, kw_only=True)
class Target:
    """What a data set must fit."""

    name: str
    """Name for messages."""
    action_spec: ActionSpec
    """Dimensions and bounds of the actions."""
    control_rate: float | None = None
    """Steps per second, Hz. None where it is not known."""
    image_size: tuple[int, int] | None = None
    """(H, W) of the images, pixels. None where it is not known."""
    sentences: tuple[str, ...] = ()
    """All instructions. Empty where they are not known."""


def environment_target(suite: TaskSuite, task: str) -> Target:
    """Return what an environment takes and shows. Opens the task without rendering."""
    return Target(
        name=suite.name,
        action_spec=action_spec_of(suite, task),
        control_rate=suite.control_rate,
        image_size=suite.image_size,
        sentences=sentences_of(suite, suite.tasks),
    )


def sentences_of(suite: TaskSuite, tasks: Iterable[str]) -> tuple[str, ...]:
    """Return all instructions of tasks. Empty where one of them is known only after a reset."""
    sentences = [suite.sentences(task) for task in tasks]
    return tuple(itertools.chain.from_iterable(sentences)) if all(sentences) else ()


def target_differences(source: EpisodeSource, target: Target) -> list[Difference]:
    """Return what of a data set does not fit, as (check, message)."""
    return [
        *_of_actions(source, target),
        *_of_rates(source, target),
        *_of_images(source, target),
        *_of_texts(source, target),
    ]


def _of_actions(source: EpisodeSource, target: Target) -> Iterator[Difference]:
    spec, names = target.action_spec, source.action_spec.dimension_names
    yield from name_differences(names, spec.dimension_names)
    others = matched_names(names, spec.dimension_names)
    values = np.concatenate(finite_actions(source))
    for index, name in enumerate(names):
        if name in others:
            place = others.index(name)
            low, high = float(spec.low[place]), float(spec.high[place])
            yield from _of_bounds(name, values[:, index].astype(np.float64), low, high, target.name)


def _of_bounds(name: str, values: NDArray[np.float64], low: float, high: float, target: str) -> Iterator[Difference]:
    outside = float(((values < low) | (values > high)).mean()) if len(values) else 0.0
    bounds = f"the bounds {low:g}..{high:g} of {target}"
    if outside > _OUTSIDE:
        yield "other-bounds", f"{name}: {outside:.0%} of the values lie outside {bounds}. Check the unit and the sign"
    elif len(values):
        first, last = np.quantile(values, [0.01, 0.99])
        if 0 < last - first < _NARROW * (high - low):
            yield (
                "other-scale",
                f"{name}: 98 % of the values lie in {first:.3g}..{last:.3g}, within {bounds}. Check the unit",
            )


def _of_rates(source: EpisodeSource, target: Target) -> Iterator[Difference]:
    rate = optional_members(source).details.get("control_rate")
    if rate and target.control_rate and abs(rate / target.control_rate - 1) > _RATE_ERROR:
        yield "other-rate", f"the data have {rate:g} steps per second, {target.name} has {target.control_rate:g}"


def _of_images(source: EpisodeSource, target: Target) -> Iterator[Difference]:
    height, width = decoded_images(source, 0, 0, 1)[0].shape[:2]
    size = target.image_size
    if size is not None and size != (height, width):
        other = f"those of {target.name} {size[0]} x {size[1]}"
        yield "other-image-size", f"the images of the data are {height} x {width}, {other}"


def _of_texts(source: EpisodeSource, target: Target) -> Iterator[Difference]:
    known = {normalized(sentence) for sentence in target.sentences}
    sentences = dict.fromkeys(source.instruction(episode) for episode in range(len(source.lengths)))
    other = [sentence for sentence in sentences if sentence.strip() and normalized(sentence) not in known]
    if known and other:
        count = f"{len(other)} of {len(sentences)} instructions are none of {target.name}"
        yield (
            "other-instructions",
            f"{count}, the first is {other[0][:80]!r}. The first of {target.name} is {target.sentences[0]!r}",
        )
