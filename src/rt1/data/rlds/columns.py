"""The features that a layout names: how a record holds their values, and how action keys become one vector."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rt1.actions import ActionSpec, Discrete, FloatArray
from rt1.common.protobuf import Buffer
from rt1.data.rlds.instructions import check_instruction
from rt1.data.rlds.schema import FeatureInfo, RLDSLayout, find_feature
from rt1.data.rlds.tfrecord import (
    BYTES,
    FLOATS,
    INTS,
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


@dataclass(frozen=True, kw_only=True)
class Columns:
    """The features of a data set that a layout names, and how they become the action vector."""

    image: FeatureInfo
    """Encoded image of each step."""
    instruction: FeatureInfo | None
    """Text, a class label, or a row of UTF-8 codes. None: all instructions are empty."""
    embedding: FeatureInfo | None
    task: FeatureInfo | None
    actions: tuple[FeatureInfo, ...]
    """Parts of the action, numbers."""
    one_hot: tuple[bool, ...]
    """Whether each part is one-hot. It is joined as the number of its choice."""
    spec: ActionSpec | None
    """Action spec whose parts the features are by name. None: the features are joined in the layout's order."""

    @property
    def widths(self) -> tuple[int, ...]:
        """Number of entries of each part when joined in the layout's order."""
        return tuple(1 if hot else part.width for hot, part in zip(self.one_hot, self.actions, strict=True))

    @property
    def part_names(self) -> list[str]:
        """Name of each part of the action: the last piece of its key."""
        return [feature.key.rsplit("/", 1)[-1] for feature in self.actions]

    def named_parts(self) -> list[list[Any]] | None:
        """Return the parts and choices of the spec if they decide the stored vectors."""
        if self.spec is None:
            return None
        return [[part.name, part.choices if isinstance(part, Discrete) else 0] for part in self.spec.parts]

    def join(self, values: Sequence[NDArray[Any]]) -> FloatArray:
        """Return the action vectors, float32 (steps, A), of the parts' values, each (steps, width).

        Raises:
            DataError: a value that its part cannot have, with its step.
        """
        if self.spec is not None:
            return _join_by_name(self.spec, dict(zip(self.part_names, values, strict=True)))
        parts = zip(self.actions, self.one_hot, values, strict=True)
        columns = [_choice(feature, part) if hot else part for feature, hot, part in parts]
        return np.concatenate(columns, axis=1).astype(np.float32)

    def spec_of_data(self, actions: FloatArray) -> ActionSpec:
        """Return a spec with one continuous part per action key, bounded by the actions (steps, A)."""
        names = self.part_names
        if len(set(names)) < len(names):
            names = [feature.key for feature in self.actions]
        columns_of_values = np.ascontiguousarray(actions.T)  # eight times faster to reduce
        low, high = columns_of_values.min(axis=1), columns_of_values.max(axis=1)
        return spec_between(low, high, parts=dict(zip(names, self.widths, strict=True)))


def columns_of(features: Mapping[str, FeatureInfo], layout: RLDSLayout, spec: ActionSpec | None) -> Columns:
    """Return the features that a layout names, for the vector of ``spec``. Unsuitable keys raise ``DataError``."""
    columns = Columns(
        actions=tuple(find_feature(features, key) for key in layout.action_keys),
        image=find_feature(features, layout.image_key),
        instruction=find_feature(features, layout.instruction_key) if layout.instruction_key else None,
        embedding=find_feature(features, layout.embedding_key) if layout.embedding_key else None,
        task=find_feature(features, layout.task_key) if layout.task_key else None,
        one_hot=tuple(key in layout.one_hot_keys for key in layout.action_keys),
        spec=spec,
    )
    if columns.image.kind != "image":
        raise DataError(f"RLDS key {layout.image_key!r} holds a {columns.image.kind}. The image_key must name an image")
    check_instruction(columns.instruction)
    for feature in (*columns.actions, columns.embedding):
        if feature is not None and (feature.kind != "tensor" or not feature.width):
            content = f"a {feature.kind}" if feature.kind != "tensor" else f"values of shape {feature.shape}"
            raise DataError(f"RLDS key {feature.key!r} holds {content}. Numbers are needed there")
    if spec is None or _matches_by_name(columns, spec):
        return columns
    if sum(columns.widths) != spec.size:
        raise DataError(
            f"the action keys {', '.join(layout.action_keys)} hold {sum(columns.widths)} values, the action spec has "
            f"{spec.size} dimensions ({', '.join(spec.dimension_names)}). Name the keys that belong to it"
        )
    return replace(columns, spec=None)


def _matches_by_name(columns: Columns, spec: ActionSpec) -> bool:
    """Return whether the keys are the parts of the spec. A single key as wide as the spec is the whole vector."""
    if len(columns.actions) == 1 and columns.actions[0].width == spec.size:
        return False
    return set(columns.part_names) == {part.name for part in spec.parts}


def _choice(feature: FeatureInfo, values: NDArray[Any]) -> NDArray[Any]:
    """Return the choice of each one-hot row (steps, n) as (steps, 1), -1 for a row of zeros."""
    numbers = values.astype(np.float64)
    ones = numbers @ np.ones(values.shape[1])  # far faster than a sum along so short an axis
    if ((values != 0) & (values != 1)).any() or (ones > 1).any():
        step = int(np.argmax(((values != 0) & (values != 1)).any(axis=1) | (ones > 1)))
        row = f"{feature.key!r} holds {values[step].tolist()}"
        raise DataError(f"step {step}: {row}. A one-hot key must hold zeros and at most one 1")
    return (numbers @ np.arange(values.shape[1]) + ones - 1)[:, None]


def _join_by_name(spec: ActionSpec, parts: Mapping[str, NDArray[Any]]) -> FloatArray:
    try:
        return spec.from_dict(parts)
    except ValueError:
        for step in range(len(next(iter(parts.values())))):
            try:
                spec.from_dict({name: part[step] for name, part in parts.items()})
            except ValueError as error:
                raise DataError(f"step {step}: {error}") from error
        raise


def span_of(spans: Mapping[bytes, Span], feature: FeatureInfo) -> Span:
    """Return the span of a feature's list. A record without it raises :class:`DataError`."""
    span = spans.get(feature.record_key)
    if span is None:
        raise DataError(f"the record has no {feature.key!r}")
    return span


def text_of(data: Buffer, spans: Mapping[bytes, Span], feature: FeatureInfo) -> bytes:
    """Return the text at the first step."""
    kind, first, end = span_of(spans, feature)
    return first_bytes(data, first, end) if kind == BYTES else b""


def embedding_of(data: Buffer, spans: Mapping[bytes, Span], feature: FeatureInfo | None) -> tuple[int, int]:
    """Return the offset of the text embedding at the first step and its bytes per value, or zeros."""
    if feature is None or feature.record_key not in spans:
        return 0, 0
    kind, first, end = span_of(spans, feature)
    if kind != FLOATS:
        raise DataError(f"the text embedding {feature.key!r} is not a list of floats")
    offset, stride, count = float_layout(data, first, end)
    if count < feature.width:
        raise DataError(f"the text embedding {feature.key!r} has {count} values. It must have {feature.width}")
    first_values = np.frombuffer(data, np.uint8, feature.width * stride, offset + 4 - stride)
    if not np.isfinite(strided_floats(first_values, stride)).all():
        raise DataError(f"the text embedding {feature.key!r} holds NaN or infinity. It must be finite")
    return offset, stride


def values_of(data: Buffer, spans: Mapping[bytes, Span], feature: FeatureInfo, steps: int) -> NDArray[Any]:
    """Return a feature's values of all steps, flat."""
    kind, first, end = span_of(spans, feature)
    count = steps * feature.width
    values: NDArray[Any]
    if kind == FLOATS:
        values = float_values(data, first, end, count)
    elif kind == INTS:
        values = int_values(data, first, end)
    else:
        values = _packed_tensors(data, first, end, feature)
    if values.size != count:
        rule = f"It must have {feature.width} a step"
        raise DataError(f"{feature.key!r} has {values.size} values for {steps} steps. {rule}")
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
        raise DataError(f"{feature.key!r} holds {feature.dtype}. Numbers are needed there")
    return numbers


def _inflated(data: bytes, size: int) -> bytes:
    """Return what zlib data holds, ``size`` bytes: a small file may hold gigabytes."""
    stream = zlib.decompressobj()
    content = stream.decompress(data, size + 1)
    if not stream.eof:
        raise ValueError(f"it is cut, or holds more than {size} bytes a step")
    return content
