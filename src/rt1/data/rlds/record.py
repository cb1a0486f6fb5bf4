"""The values that an index reads from an RLDS record: texts, text embeddings and numbers by feature."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rt1.data.rlds.schema import FeatureInfo
from rt1.data.rlds.tfrecord import (
    BYTES,
    FLOATS,
    INTS,
    Buffer,
    Span,
    bytes_spans,
    first_bytes,
    float_layout,
    float_values,
    int_values,
    strided_floats,
)
from rt1.errors import DataError


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


def values_of(data: Buffer, span: Span | None, feature: FeatureInfo, count: int) -> NDArray[Any]:
    """Return a feature's values of all steps, flat: ``count`` numbers."""
    if span is None:
        raise DataError(f"the record has no {feature.key!r}")
    kind, first, end = span
    values: NDArray[Any]
    if kind == FLOATS:
        values = float_values(data, first, end, count)
    elif kind == INTS:
        values = int_values(data, first, end)
    else:
        values = _packed_tensors(data, first, end, feature)
    if values.size != count:
        sizes = f"{values.size} values for {count // feature.width} steps"
        raise DataError(f"{feature.key!r} has {sizes}; it must have {feature.width} a step")
    return values


def _packed_tensors(data: Buffer, first: int, end: int, feature: FeatureInfo) -> NDArray[Any]:
    """Return the values of a feature stored as one byte string per step, zlib-compressed or not."""
    raw = [data[offset : offset + length] for offset, length in bytes_spans(data, first, end)]
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
