"""Statistics of the actions of a source against its bounds, computed in one pass and cached."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rt1.actions import ActionSpec, Continuous, FloatArray
from rt1.common.border import reading
from rt1.common.files import write_text
from rt1.common.json_config import to_json
from rt1.common.json_files import read_object
from rt1.data.sources.base import EpisodeSource, check_finite, optional_members
from rt1.errors import DataError, SaveError

_EPISODES_IN_KEY = 64


@dataclass(frozen=True, kw_only=True)
class SourceStatistics:
    """The actions of a whole source against its action spec."""

    names: tuple[str, ...]
    """Name of each dimension."""
    statistics: ActionStatistics
    outside: NDArray[np.float64]
    """(A,) share of the values outside the bounds, 0..1, which encoding clips."""

    def remarks(self) -> tuple[str, ...]:
        """Return a sentence for every dimension that is constant, has far values, or values outside its bounds."""
        statistics = self.statistics
        values = dict(zip(self.names, statistics.minimum, strict=True))
        constant = statistics.constant_dimensions(self.names)
        far = f"lies more than {FAR:g} standard deviations from its mean"
        clip = "lies outside its bounds and is clipped"
        return (
            *(f"{name} is constant at {values[name]:g}" for name in constant),
            *(f"{share:.2%} of {name} {far}" for name, share in zip(self.names, statistics.far, strict=True) if share),
            *(f"{share:.2%} of {name} {clip}" for name, share in zip(self.names, self.outside, strict=True) if share),
        )

    def to_json(self) -> dict[str, Any]:
        """Plain data for ``json``. :meth:`from_json` reads it back exactly."""
        return to_json(self)

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> SourceStatistics:
        """Read what :meth:`to_json` wrote. Anything else raises ``ValueError``."""
        with reading("the statistics of a source", cure="Take them again"):
            names, columns = tuple(map(str, data["names"])), data["statistics"]
            rows = {f.name: finite_row(columns[f.name], like=names) for f in fields(ActionStatistics)[1:]}
            return SourceStatistics(
                names=names,
                statistics=ActionStatistics(count=int(columns["count"]), **rows),
                outside=finite_row(data["outside"], like=names),
            )


def source_statistics(source: EpisodeSource, *, cache: Path | None = None) -> SourceStatistics:
    """Return the statistics of all actions of a source, which are read into memory once, 4 bytes a value.

    ``to_json()`` of the result is plain data, to store with a checkpoint for example. The result is cached in the
    folder ``cache``, by default the source's ``cache_folder``. A cached result is used if the action spec, the lengths
    of all episodes and the actions of 64 of them are the same.

    Raises:
        DataError: no steps, or an action that is not finite, with its step.
    """
    cache = cache or optional_members(source).cache_folder
    path = None if cache is None else cache / f"statistics-{_key(source)}.json"
    if path is not None:
        with suppress(ValueError):  # missing or damaged: it is computed again
            return SourceStatistics.from_json(read_object(path))
    actions = all_actions(source)
    statistics = SourceStatistics(
        names=source.action_spec.dimension_names,
        statistics=statistics_of(actions),
        outside=source.action_spec.out_of_bounds(actions).mean(axis=0),
    )
    if path is not None:
        try:
            write_text(path, json.dumps(statistics.to_json()))
        except SaveError as error:
            warnings.warn(f"the statistics are not kept: {error}", stacklevel=2)
    return statistics


def all_actions(source: EpisodeSource) -> FloatArray:
    """Return all actions of a source, float32 (steps, A). No steps, or one that is not finite, raise ``DataError``."""
    lengths = source.lengths.tolist()
    if not sum(lengths):
        raise DataError(f"{source.name} has no steps. There are no actions to take statistics of")
    actions = np.empty((sum(lengths), source.action_spec.size), dtype=np.float32)
    first = 0
    for episode, steps in enumerate(lengths):
        actions[first : first + steps] = source.actions(episode, 0, steps)
        check_finite(actions[first : first + steps], f"the action of {source.name}, episode {episode}")
        first += steps
    return actions


def _key(source: EpisodeSource) -> str:
    """Return a hash of what the statistics depend on, from part of the actions."""
    digest = hashlib.sha256(json.dumps([source.name, source.action_spec.to_json()]).encode())
    digest.update(np.ascontiguousarray(source.lengths, dtype="<i8").tobytes())
    count = len(source.lengths)
    for episode in np.unique(np.linspace(0, count - 1, min(count, _EPISODES_IN_KEY)).astype(int)).tolist():
        digest.update(source.actions(episode, 0, int(source.lengths[episode])).tobytes())
    return digest.hexdigest()[:16]


FAR = 5.0
"""Values farther from the mean than this many standard deviations are counted."""

CONSTANT_WIDTH = 1.0
"""Least width of the bounds of a constant dimension (physical units), since bins need a width."""


@dataclass(frozen=True, kw_only=True)
class ActionStatistics:
    """Per-dimension statistics of the recorded actions, each float64 (A,), physical units."""

    count: int
    """Number of steps."""
    minimum: NDArray[np.float64]
    maximum: NDArray[np.float64]
    mean: NDArray[np.float64]
    std: NDArray[np.float64]
    """Standard deviation of the population."""
    q01: NDArray[np.float64]
    """1 % quantile."""
    q99: NDArray[np.float64]
    """99 % quantile."""
    far: NDArray[np.float64]
    """Share of the values more than ``FAR`` standard deviations from the mean, 0..1."""

    def constant_dimensions(self, names: tuple[str, ...]) -> tuple[str, ...]:
        """Return the names of the dimensions that never change. ``names`` are the spec's."""
        return tuple(n for n, same in zip(names, self.minimum == self.maximum, strict=True) if same)


def finite_row(values: Sequence[float], *, like: Sequence[object]) -> NDArray[np.float64]:
    """Return a list of a file as float64 (A,). Other values, or another length than ``like``, raise ``ValueError``."""
    row = np.array(values, dtype=np.float64)
    if row.shape != (len(like),) or not np.isfinite(row).all():
        raise ValueError(f"{values!r:.100} is not a list of {len(like)} finite numbers")
    return row


def statistics_of(actions: FloatArray) -> ActionStatistics:
    """Return the statistics of float32 (steps, A) actions. No step at all raises :class:`DataError`."""
    if not len(actions):
        raise DataError("there are no actions to take bounds from. The source has no steps")
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


def spec_between(
    low: NDArray[np.floating[Any]], high: NDArray[np.floating[Any]], *, parts: Mapping[str, int], bins: int = 256
) -> ActionSpec:
    """Return a spec of continuous parts with these bounds (A,), physical units.

    A constant dimension gets its value as lower bound, which is exactly what token 0 decodes to. ``parts`` are the name
    and number of dimensions of each part, in the order of the action vector. A sum other than A raises
    :class:`DataError`.
    """
    total = sum(parts.values())
    if total != len(low):
        raise DataError(f"the parts {dict(parts)} add up to {total} dimensions. The actions have {len(low)}")
    low, high = low.astype(np.float64), high.astype(np.float64)
    flat = low.astype(np.float32) == high.astype(np.float32)
    # A thousandth of a large value is a width that float32 can hold.
    with np.errstate(invalid="ignore"):  # bounds that are not finite are refused below
        high = np.where(flat, low + np.maximum(CONSTANT_WIDTH, np.abs(low) / 1000), high)
    starts = np.cumsum([*parts.values()])[:-1]
    columns = zip(parts, np.split(low, starts), np.split(high, starts), strict=True)
    spec_parts = (Continuous(name=n, low=tuple(lo.tolist()), high=tuple(hi.tolist())) for n, lo, hi in columns)
    return ActionSpec(parts=tuple(spec_parts), bins=bins)
