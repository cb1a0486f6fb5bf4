"""Bounds of the action that a user gives in place of those of the data set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rt1.actions import ActionPart, ActionSpec, Continuous
from rt1.common.border import reading
from rt1.common.json_files import read_object
from rt1.data.sources.base import EpisodeSource
from rt1.data.sources.concat import MappedSource
from rt1.data.statistics import all_actions, finite_row, spec_between
from rt1.errors import DataError

QUANTILES = {"q01": 0.01, "q001": 0.001}
"""Word -> share of the values that may lie below the lower bound, and above the upper one."""

_FILE_KEYS = (("low", "high"), ("q01", "q99"), ("min", "max"))
_RULE = "Give LOW HIGH, q01, q001, or a JSON file"
Bounds = tuple[NDArray[np.float64], NDArray[np.float64]]


def with_bounds(source: EpisodeSource, words: Sequence[str]) -> EpisodeSource:
    """Return the source with other bounds of its continuous dimensions.

    Args:
        source: the episodes.
        words: lower and upper bound of every dimension, physical units. Or ``q01`` or ``q001`` for the quantiles of the
            source's actions. Or a JSON file: an ``action_spec`` as ``rt1.json`` and checkpoints hold it, or lists
            ``low`` and ``high``, ``q01`` and ``q99`` or ``min`` and ``max``, also under the key ``action``.

    Raises:
        DataError: other words, an unreadable file, or bounds for another number of dimensions.
    """
    spec = source.action_spec
    low, high = _bounds(source, list(words))
    if len(low) != spec.size:
        names = ", ".join(spec.dimension_names)
        raise DataError(f"{words[0]} has bounds of {len(low)} dimensions. The action has {spec.size} ({names})")
    with reading(f"the bounds {' '.join(words)}", cure=_RULE):
        bounded = spec_between(low, high, parts={"action": spec.size})  # a constant dimension gets a width
    return with_spec(source, spec_with_bounds(spec, bounded.low, bounded.high))


def spec_with_bounds(spec: ActionSpec, low: NDArray[Any], high: NDArray[Any]) -> ActionSpec:
    """Return a spec with other bounds (A,) of its continuous parts."""
    parts: list[ActionPart] = []
    first = 0
    for part in spec.parts:
        cut = slice(first, first := first + part.size)
        lows, highs = tuple(low[cut].tolist()), tuple(high[cut].tolist())
        parts.append(replace(part, low=lows, high=highs) if isinstance(part, Continuous) else part)
    return replace(spec, parts=tuple(parts))


def with_spec(source: EpisodeSource, spec: ActionSpec) -> EpisodeSource:
    """Return the source with another spec for the same actions."""
    return source if source.action_spec == spec else MappedSource(source, spec, lambda actions: actions)


def _bounds(source: EpisodeSource, words: list[str]) -> Bounds:
    if len(words) == 2:
        try:
            low, high = map(float, words)
        except ValueError as error:
            raise DataError(f"--bounds is {' '.join(words)}. {_RULE}") from error
        if not low < high:
            raise DataError(f"--bounds is {' '.join(words)}. LOW must be below HIGH")
        return np.full(source.action_spec.size, low), np.full(source.action_spec.size, high)
    if len(words) == 1 and words[0] in QUANTILES:
        return _quantiles(source, QUANTILES[words[0]])
    if len(words) == 1 and Path(words[0]).is_file():
        return _read(Path(words[0]))
    raise DataError(f"--bounds is {' '.join(words)}, which is no file either. {_RULE}")


def _quantiles(source: EpisodeSource, share: float) -> Bounds:
    """Return the quantiles of each dimension. One that hardly ever changes gets its smallest and largest value."""
    actions = all_actions(source)
    low, high = np.quantile(actions, [share, 1 - share], axis=0).astype(np.float64)
    rare = low == high
    return np.where(rare, actions.min(axis=0), low), np.where(rare, actions.max(axis=0), high)


def _read(path: Path) -> Bounds:
    data = read_object(path, cure=_RULE)
    with reading(path, cure=_RULE):
        if "action_spec" in data:
            spec = ActionSpec.from_json(data["action_spec"])
            return spec.low.astype(np.float64), spec.high.astype(np.float64)
        values = data.get("action", data)
        pair = _pair(values) if isinstance(values, Mapping) else None
        if pair is None:
            rule = "It must hold low and high, q01 and q99, min and max, or an action_spec"
            raise DataError(f"{path} holds {', '.join(map(str, data))[:100]}. {rule}")
        low, high = (values[key] for key in pair)
        return finite_row(low, like=low), finite_row(high, like=low)


def _pair(values: Mapping[str, Any]) -> tuple[str, str] | None:
    return next((pair for pair in _FILE_KEYS if all(key in values for key in pair)), None)
