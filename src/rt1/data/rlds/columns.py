"""The features that a layout names, and how action keys are joined into one vector."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rt1.actions import ActionSpec, Discrete, FloatArray
from rt1.data.rlds.schema import FeatureInfo, RLDSLayout, find_feature
from rt1.data.statistics import spec_between
from rt1.errors import DataError

JoinActions = Callable[[Sequence[NDArray[Any]]], FloatArray]
"""Turns the values of the action keys, each (steps, width), into float32 (steps, A); may raise DataError."""


@dataclass(frozen=True, kw_only=True)
class Columns:
    """The features of a data set that a layout names."""

    image: FeatureInfo
    """Encoded image of each step."""
    instruction: FeatureInfo
    """Text, or a row of UTF-8 codes."""
    embedding: FeatureInfo | None
    actions: tuple[FeatureInfo, ...]
    """Parts of the action, numbers."""
    widths: tuple[int, ...]
    """Number of entries of each part when joined in the layout's order."""
    task: FeatureInfo | None
    join: JoinActions
    """Function that joins the parts into one vector."""


def columns_of(features: Mapping[str, FeatureInfo], layout: RLDSLayout, spec: ActionSpec | None) -> Columns:
    """Return the features that a layout names, for the vector of ``spec``; keys that do not fit raise ``DataError``."""
    actions = tuple(find_feature(features, key) for key in layout.action_keys)
    one_hot = tuple(key in layout.one_hot_keys for key in layout.action_keys)
    widths = tuple(1 if hot else feature.width for hot, feature in zip(one_hot, actions, strict=True))
    columns = Columns(
        image=find_feature(features, layout.image_key),
        instruction=find_feature(features, layout.instruction_key),
        embedding=find_feature(features, layout.embedding_key) if layout.embedding_key else None,
        actions=actions,
        widths=widths,
        task=find_feature(features, layout.task_key) if layout.task_key else None,
        join=_joiner(actions, widths, one_hot, spec),
    )
    if columns.image.kind != "image":
        raise DataError(f"RLDS key {layout.image_key!r} holds a {columns.image.kind}; image_key must name an image")
    for feature in (*actions, columns.embedding):
        if feature is not None and (feature.kind != "tensor" or not feature.width):
            content = f"a {feature.kind}" if feature.kind != "tensor" else f"values of shape {feature.shape}"
            raise DataError(f"RLDS key {feature.key!r} holds {content}; numbers are needed there")
    return columns


def _joiner(
    actions: Sequence[FeatureInfo], widths: Sequence[int], one_hot: Sequence[bool], spec: ActionSpec | None
) -> JoinActions:
    if spec is not None and _by_name(actions, spec):
        return functools.partial(_join_parts, spec, [_part_name(feature) for feature in actions])
    width = sum(widths)
    if spec is not None and width != spec.size:
        keys = ", ".join(feature.key for feature in actions)
        raise DataError(
            f"the action keys {keys} hold {width} values, the action spec has {spec.size} dimensions "
            f"({', '.join(spec.dimension_names)}); name the keys that belong to it"
        )
    return functools.partial(_join_vectors, actions, one_hot)


def _join_vectors(
    actions: Sequence[FeatureInfo], one_hot: Sequence[bool], values: Sequence[NDArray[Any]]
) -> FloatArray:
    columns = [
        _choice(feature, part) if hot else part for feature, hot, part in zip(actions, one_hot, values, strict=True)
    ]
    return np.concatenate(columns, axis=1).astype(np.float32)


def _choice(feature: FeatureInfo, values: NDArray[Any]) -> NDArray[Any]:
    """Return the choice of each one-hot row (steps, n) as (steps, 1), -1 for a row of zeros."""
    numbers = values.astype(np.float64)
    ones = numbers @ np.ones(values.shape[1])  # far faster than a sum along so short an axis
    if ((values != 0) & (values != 1)).any() or (ones > 1).any():
        step = int(np.argmax(((values != 0) & (values != 1)).any(axis=1) | (ones > 1)))
        row = f"{feature.key!r} holds {values[step].tolist()}"
        raise DataError(f"step {step}: {row}; a one-hot key must hold zeros and at most one 1")
    return (numbers @ np.arange(values.shape[1]) + ones - 1)[:, None]


def _join_parts(spec: ActionSpec, names: Sequence[str], values: Sequence[NDArray[Any]]) -> FloatArray:
    try:
        return spec.from_dict(dict(zip(names, values, strict=True)))
    except ValueError:
        for step in range(len(values[0])):
            try:
                spec.from_dict({name: part[step] for name, part in zip(names, values, strict=True)})
            except ValueError as error:
                raise DataError(f"step {step}: {error}") from error
        raise


def _by_name(actions: Sequence[FeatureInfo], spec: ActionSpec) -> bool:
    """Return whether the keys are the parts of the spec; a single key as wide as the spec is the whole vector."""
    if len(actions) == 1 and actions[0].width == spec.size:
        return False
    return {_part_name(feature) for feature in actions} == {part.name for part in spec.parts}


def named_parts(actions: Sequence[FeatureInfo], spec: ActionSpec | None) -> list[list[Any]] | None:
    """Return the parts and choices of the spec if they decide the stored vectors, which is if matched by name."""
    if spec is None or not _by_name(actions, spec):
        return None
    return [[part.name, part.choices if isinstance(part, Discrete) else 0] for part in spec.parts]


def spec_of_data(actions: FloatArray, columns: Columns) -> ActionSpec:
    """Return a spec with one continuous part per action key, bounded by the actions (steps, A)."""
    names = [_part_name(feature) for feature in columns.actions]
    if len(set(names)) < len(names):
        names = [feature.key for feature in columns.actions]
    columns_of_values = np.ascontiguousarray(actions.T)  # eight times faster to reduce
    low, high = columns_of_values.min(axis=1), columns_of_values.max(axis=1)
    return spec_between(low, high, parts=dict(zip(names, columns.widths, strict=True)))


def _part_name(feature: FeatureInfo) -> str:
    return feature.key.rsplit("/", 1)[-1]
