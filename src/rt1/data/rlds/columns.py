"""The features that a layout names: how a record holds their values, and how action keys become one vector."""

from __future__ import annotations

import functools
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rt1.actions import ActionSpec, Discrete, FloatArray
from rt1.data.rlds.schema import FeatureInfo, RLDSLayout, find_feature
from rt1.data.rlds.tfrecord import (
    BYTES,
    FLOATS,
    INTS,
    Buffer,
    Span,
    bytes_places,
    first_bytes,
    float_layout,
    float_values,
    int_values,
    strided_floats,
)
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


def span_of(spans: Mapping[bytes, Span], key: str) -> Span:
    """Return the span of a feature's list; a record without it raises :class:`DataError`."""
    span = spans.get(key.encode())
    if span is None:
        raise DataError(f"the record has no {key!r}")
    return span


def text_of(data: Buffer, spans: Mapping[bytes, Span], feature: FeatureInfo) -> bytes:
    """Return the text at the first step; some data sets store it as a row of UTF-8 codes padded with zeros."""
    kind, first, end = span_of(spans, feature.key)
    if kind == INTS:
        codes = int_values(data, first, end)[: feature.width]
        return bytes(codes[codes != 0].astype(np.uint8))
    return first_bytes(data, first, end) if kind == BYTES else b""


def embedding_of(data: Buffer, spans: Mapping[bytes, Span], feature: FeatureInfo | None) -> tuple[int, int]:
    """Return the offset of the text embedding at the first step and its bytes per value, or zeros."""
    if feature is None or feature.key.encode() not in spans:
        return 0, 0
    kind, first, end = span_of(spans, feature.key)
    if kind != FLOATS:
        raise DataError(f"the text embedding {feature.key!r} is not a list of floats")
    offset, stride, count = float_layout(data, first, end)
    if count < feature.width:
        raise DataError(f"the text embedding {feature.key!r} has {count} values; it must have {feature.width}")
    first_values = np.frombuffer(data, np.uint8, feature.width * stride, offset + 4 - stride)
    if not np.isfinite(strided_floats(first_values, stride)).all():
        raise DataError(f"the text embedding {feature.key!r} holds NaN or infinity; it must be finite")
    return offset, stride


def values_of(data: Buffer, spans: Mapping[bytes, Span], feature: FeatureInfo, steps: int) -> NDArray[Any]:
    """Return a feature's values of all steps, flat."""
    kind, first, end = span_of(spans, feature.key)
    count = steps * feature.width
    values: NDArray[Any]
    if kind == FLOATS:
        values = float_values(data, first, end, count)
    elif kind == INTS:
        values = int_values(data, first, end)
    else:
        values = _packed_tensors(data, first, end, feature)
    if values.size != count:
        rule = f"it must have {feature.width} a step"
        raise DataError(f"{feature.key!r} has {values.size} values for {steps} steps; {rule}")
    return values


def _packed_tensors(data: Buffer, first: int, end: int, feature: FeatureInfo) -> NDArray[Any]:
    """Return the values of a feature stored as one byte string per step, zlib-compressed or not."""
    places = bytes_places(data, first, end)
    raw = [data[offset : offset + length] for offset, length in zip(places[::2], places[1::2], strict=True)]
    try:
        dtype = np.dtype(feature.dtype)
        if feature.encoding == "zlib":
            raw = [_inflated(part, feature.width * dtype.itemsize) for part in raw]
        numbers = np.frombuffer(b"".join(raw), dtype)
    except (zlib.error, ValueError, TypeError, OverflowError) as error:
        raise DataError(f"{feature.key!r} does not unpack as {feature.encoding} {feature.dtype}: {error}") from error
    if dtype.kind not in "biuf":
        raise DataError(f"{feature.key!r} holds {feature.dtype}; numbers are needed there")
    return numbers


def _inflated(data: bytes, size: int) -> bytes:
    """Return what zlib data holds, ``size`` bytes: a small file may hold gigabytes."""
    stream = zlib.decompressobj()
    content = stream.decompress(data, size + 1)
    if not stream.eof:
        raise ValueError(f"it is cut, or holds more than {size} bytes a step")
    return content
