"""Action bounds and statistics of a source: what the bins of an action spec should span."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from rt1.actions import ActionSpec, Continuous, FloatArray
from rt1.common.border import reading
from rt1.data.sources.base import EpisodeSource
from rt1.errors import DataError

FAR = 5.0
"""Values farther from the mean than this many standard deviations are counted."""

CONSTANT_MARGIN = 1.0
"""A constant dimension of value v gets the bounds v - 1 and v + 1 (physical units): bins need a width."""


@dataclass(frozen=True, kw_only=True)
class ActionStatistics:
    """Per-dimension statistics of the recorded actions, each float64 (A,), physical units."""

    count: int
    """Number of steps."""
    minimum: NDArray[np.float64]
    """Smallest value."""
    maximum: NDArray[np.float64]
    """Largest value."""
    mean: NDArray[np.float64]
    """Average."""
    std: NDArray[np.float64]
    """Standard deviation (of the population)."""
    q01: NDArray[np.float64]
    """1 % of the values lie below."""
    q99: NDArray[np.float64]
    """99 % of the values lie below."""
    far: NDArray[np.float64]
    """Share of the values that lie more than ``FAR`` standard deviations from the mean, 0..1."""

    def constant_dimensions(self, names: tuple[str, ...]) -> tuple[str, ...]:
        """Return the names of the dimensions that never change; ``names`` are the spec's."""
        return tuple(n for n, same in zip(names, self.minimum == self.maximum, strict=True) if same)

    def to_json(self) -> dict[str, Any]:
        """Plain data for ``json``; :meth:`from_json` reads it back exactly."""
        return {f.name: v if isinstance(v := getattr(self, f.name), int) else v.tolist() for f in fields(self)}

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> ActionStatistics:
        """Read what :meth:`to_json` wrote; anything else raises ``ValueError``."""
        columns = [f.name for f in fields(ActionStatistics) if f.name != "count"]
        with reading("the action statistics", cure=f"expected count, {', '.join(columns)}"):
            arrays = {name: finite_row(data[name], like=data["mean"]) for name in columns}
            return ActionStatistics(count=int(data["count"]), **arrays)


def finite_row(values: Sequence[float], *, like: Sequence[object]) -> NDArray[np.float64]:
    """Return a list of a file as float64 (A,); other values, or another length than ``like``, raise ``ValueError``."""
    row = np.array(values, dtype=np.float64)
    if row.shape != (len(like),) or not np.isfinite(row).all():
        raise ValueError(f"{values!r:.100} is not a list of {len(like)} finite numbers")
    return row


def action_statistics(source: EpisodeSource) -> ActionStatistics:
    """Return the statistics of all actions of a source, which fit in memory (4 bytes a value)."""
    episodes = range(len(source.lengths))
    return statistics_of(np.concatenate([source.actions(e, 0, int(source.lengths[e])) for e in episodes]))


def statistics_of(actions: FloatArray) -> ActionStatistics:
    """Return the statistics of float32 (steps, A) actions; no step at all raises :class:`DataError`."""
    if not len(actions):
        raise DataError("there are no actions to take bounds from; the source has no steps")
    q01, q99 = np.quantile(actions, [0.01, 0.99], axis=0).astype(np.float64)
    mean, std = actions.mean(axis=0, dtype=np.float64), actions.std(axis=0, dtype=np.float64)
    return ActionStatistics(
        count=len(actions),
        minimum=actions.min(axis=0).astype(np.float64),
        maximum=actions.max(axis=0).astype(np.float64),
        mean=mean,
        std=std,
        q01=q01,
        q99=q99,
        far=((actions < mean - FAR * std) | (actions > mean + FAR * std)).mean(axis=0),
    )


def bounds_spec(
    statistics: ActionStatistics,
    *,
    parts: Mapping[str, int],
    bins: int = 256,
    bounds: Literal["range", "quantiles"] = "range",
) -> ActionSpec:
    """Return a spec of continuous parts bounded by data.

    Args:
        statistics: of the actions.
        parts: name and number of dimensions of each part, in the order of the action vector.
        bins: bins per dimension.
        bounds: ``range`` spans minimum to maximum; ``quantiles`` spans 1 % to 99 %, so that a few wild values
            do not stretch the bins (values outside are clipped by the encoder). A dimension whose quantiles
            coincide gets its range.

    Raises:
        DataError: the parts do not add up to the dimensions of the statistics.
    """
    low, high = statistics.minimum, statistics.maximum
    if bounds == "quantiles":
        apart = statistics.q01.astype(np.float32) < statistics.q99.astype(np.float32)
        low, high = np.where(apart, statistics.q01, low), np.where(apart, statistics.q99, high)
    return spec_between(low, high, parts=parts, bins=bins)


def spec_between(
    low: NDArray[np.floating[Any]],
    high: NDArray[np.floating[Any]],
    *,
    parts: Mapping[str, int],
    bins: int = 256,
) -> ActionSpec:
    """Return a spec of continuous parts with the bounds (A,) given; a constant dimension is widened by ±1.

    Args:
        low: lower bounds, physical units.
        high: upper bounds; equal to ``low`` where a dimension is constant, see ``CONSTANT_MARGIN``.
        parts: name and number of dimensions of each part, in the order of the action vector.
        bins: bins per dimension.

    Raises:
        DataError: the parts do not add up to A dimensions.
    """
    total = sum(parts.values())
    if total != len(low):
        raise DataError(f"the parts {dict(parts)} add up to {total} dimensions; the actions have {len(low)}")
    flat = low.astype(np.float32) == high.astype(np.float32)
    low, high = np.where(flat, low - CONSTANT_MARGIN, low), np.where(flat, high + CONSTANT_MARGIN, high)
    spec_parts: list[Continuous] = []
    start = 0
    for name, width in parts.items():
        cut = slice(start, start + width)
        spec_parts.append(Continuous(name=name, low=tuple(low[cut].tolist()), high=tuple(high[cut].tolist())))
        start += width
    return ActionSpec(parts=tuple(spec_parts), bins=bins)
