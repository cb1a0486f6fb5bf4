"""The instruction of an RLDS episode: text, class labels or rows of UTF-8 codes."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from rt1.common.protobuf import Buffer
from rt1.data.rlds.schema import FeatureInfo
from rt1.data.rlds.tfrecord import BYTES, INTS, Span, bytes_places, first_bytes, int_values
from rt1.data.sources.sentences import sentence_of
from rt1.errors import DataError


def check_instruction(feature: FeatureInfo | None) -> None:
    """Raise :class:`DataError` for a feature that is not text: its numbers would become strange characters."""
    if feature is None or feature.kind == "text" or feature.labels:
        return
    codes = feature.kind == "tensor" and len(feature.shape) == 1 and np.dtype(feature.dtype).kind in "iu"
    if not codes or feature.width < 2:
        content = f"{feature.dtype} {feature.shape}" if feature.kind == "tensor" else f"{feature.kind} values"
        raise DataError(
            f"RLDS key {feature.key!r} holds {content}. An instruction must be text, a class label with a labels.txt "
            "file, or a row of UTF-8 codes. Name another instruction_key, or give instruction=SENTENCE for all"
        )


def instruction_of(
    data: Buffer, spans: Mapping[bytes, Span], feature: FeatureInfo | None, steps: int
) -> tuple[bytes, bool]:
    """Return the first instruction of an episode that is not empty, and whether another one follows it."""
    if feature is None or feature.record_key not in spans:
        return b"", False
    kind, first, end = spans[feature.record_key]
    if kind == BYTES:
        text, size = first_bytes(data, first, end), (end - first) // steps
        if text and not text.isspace() and data[first:end] == data[first : first + size] * steps:
            return _sentence(text), False  # usual: one text in every step
        places = bytes_places(data, first, end)
        texts = [data[at : at + length] for at, length in zip(places[::2], places[1::2], strict=True)]
    elif kind == INTS and feature.kind != "text":
        texts = _texts_of_numbers(int_values(data, first, end), feature)
    else:
        raise DataError(f"the instruction {feature.key!r} is a list of numbers. It must be text")
    different = dict.fromkeys(text for text in texts if text.strip())
    return _sentence(next(iter(different), b"")), len(different) > 1


def _texts_of_numbers(values: NDArray[np.int64], feature: FeatureInfo) -> list[bytes]:
    """Return the texts of class labels, or of rows of UTF-8 codes padded with zeros."""
    if feature.labels:
        if strange := [int(value) for value in values if not 0 <= value < len(feature.labels)]:
            rule = f"It has {len(feature.labels)} labels"
            raise DataError(f"the instruction {feature.key!r} is the class label {strange[0]}. {rule}")
        return [feature.labels[value].encode() for value in values]
    rows = values[: len(values) // feature.width * feature.width].reshape(-1, feature.width)
    if len(rows) and (rows == rows[0]).all():
        rows = rows[:1]
    texts = [row[row != 0] for row in rows]
    for codes in texts:
        if ((codes < 0) | (codes > 255)).any() or not _is_text(bytes(codes.astype(np.uint8))):
            raise DataError(
                f"the instruction {feature.key!r} is {codes[:12].tolist()}, which are no UTF-8 codes of text"
            )
    return [bytes(codes.astype(np.uint8)) for codes in texts]


def _is_text(data: bytes) -> bool:
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return all(character.isprintable() or character.isspace() for character in text)


def _sentence(text: bytes) -> bytes:
    """Return the sentence of a text that may be JSON, or nothing for a text without characters."""
    if not text.startswith((b"{", b"[", b'"')):
        return text if text.strip() else b""
    return sentence_of(text.decode("utf-8", errors="replace")).encode()
