"""Pieces that a text encoder does not know, and different instructions that get the same text embedding."""

from __future__ import annotations

import unicodedata
import warnings
from collections.abc import Collection, Hashable, Iterable, Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from rt1.errors import DataError
from rt1.text.encoder import TextEncoder, TextEncoderIdentity

_SHOWN = 5
_CURE = "Use words that it knows, or another text encoder (docs/text-encoders.md)"


UNKNOWN_KEY = "instructions_with_unknown_pieces"
"""Key in a checkpoint's provenance: instructions it was trained on whose pieces the text encoder does not all know."""


class Pieces(NamedTuple):
    """An instruction as a tokenizer cuts it."""

    ids: tuple[int, ...]
    """Ids without those that mark the ends."""
    unknown: tuple[str, ...]
    """Parts of the instruction that became the unknown piece."""


@runtime_checkable
class Tokenizing(Protocol):
    """A text encoder with a tokenizer."""

    identity: TextEncoderIdentity

    def pieces(self, instruction: str) -> Pieces:
        """Return the pieces of an instruction."""
        ...


def normalized(instruction: str) -> str:
    """Return an instruction without case, repeated blanks, and the two ways to store an accented letter.

    >>> normalized(" Open the  Drawer ")
    'open the drawer'
    """
    return " ".join(unicodedata.normalize("NFC", instruction).casefold().split())


def encode_known(encoder: TextEncoder, instruction: str, *, trained: Collection[str] = ()) -> NDArray[np.float32]:
    """Return the text embedding of an instruction, float32 (E,), for a robot to act on.

    ``trained`` are instructions with unknown pieces that the network was trained on, see :func:`with_unknown`.

    Raises:
        ValueError: the encoder does not know a piece of it and it is not in ``trained``, or it cannot be encoded.
    """
    if isinstance(encoder, Tokenizing) and encoder.pieces(instruction).unknown:
        if normalized(instruction) not in map(normalized, trained):
            raise ValueError(_text(encoder, [instruction]))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # training warned of it
            return encoder.encode([instruction])[0]
    return encoder.encode([instruction])[0]


def with_unknown(encoder: TextEncoder | None, instructions: Iterable[str]) -> list[str]:
    """Return the instructions with pieces that the encoder does not know."""
    if encoder is None or not isinstance(encoder, Tokenizing):
        return []
    return [instruction for instruction in instructions if encoder.pieces(instruction).unknown]


def warn_of_unknown(encoder: TextEncoder, instructions: Sequence[str]) -> None:
    """Warn once of the instructions with pieces that the encoder does not know."""
    unknown = with_unknown(encoder, instructions)
    if unknown and isinstance(encoder, Tokenizing):
        warnings.warn(_text(encoder, unknown), stacklevel=3)


def check_different(
    instructions: Sequence[str], vectors: NDArray[np.float32], encoder: TextEncoder | None = None
) -> None:
    """Raise :class:`DataError` if different instructions have the same text embedding.

    ``vectors`` are float32 (n, E), a row for each. Without an encoder they are those stored with the data.
    """
    if groups := shared_vectors(instructions, vectors, encoder):
        maker = "stored with the data" if encoder is None else f"of {encoder.identity.name}"
        raise DataError(
            f"{shared_text(groups)} have the same text embedding ({maker}): a network cannot tell them apart. "
            f"{SHARED_CURE}"
        )


SHARED_CURE = "Name a text encoder that knows these words (docs/text-encoders.md), or give them one sentence"


def shared_text(groups: Sequence[tuple[str, ...]]) -> str:
    """Return the first instructions that share a text embedding and the count of the others, to begin a sentence."""
    first = groups[0]
    more = f" and {len(first) - _SHOWN} more" if len(first) > _SHOWN else ""
    others = f" (and {len(groups) - 1} more such groups)" if len(groups) > 1 else ""
    return f"the instructions {', '.join(repr(one[:80]) for one in first[:_SHOWN])}{more}{others}"


def shared_vectors(
    instructions: Sequence[str], vectors: NDArray[np.float32] | None = None, encoder: TextEncoder | None = None
) -> list[tuple[str, ...]]:
    """Return groups of different instructions that an encoder turns into one vector. Case and blanks do not count.

    A tokenizer's ids decide, where there is one: the vectors of a batch may differ in their last bits.
    """
    keys: list[Hashable] = [vector.tobytes() for vector in vectors] if vectors is not None else []
    if encoder is not None and isinstance(encoder, Tokenizing):
        keys = [encoder.pieces(instruction).ids for instruction in instructions]
    return same_instructions(zip(instructions, keys, strict=True))


def same_instructions(pairs: Iterable[tuple[str, Hashable]]) -> list[tuple[str, ...]]:
    """Return groups of different instructions with one key. Empty ones do not count."""
    groups: dict[Hashable, dict[str, str]] = {}
    for instruction, key in pairs:
        if instruction.strip():
            # The hash stands for the key: the vectors of 70,000 instructions would take 100 MB.
            groups.setdefault(hash(key), {}).setdefault(normalized(instruction), instruction)
    return [tuple(group.values()) for group in groups.values() if len(group) > 1]


def _text(encoder: Tokenizing, instructions: Sequence[str]) -> str:
    pieces = dict.fromkeys(piece for instruction in instructions for piece in encoder.pieces(instruction).unknown)
    shown = ", ".join(repr(piece[:40]) for piece in [*pieces][:_SHOWN])
    count = f" (and {len(instructions) - 1} more instructions)" if len(instructions) > 1 else ""
    more = f" and {len(pieces) - _SHOWN} more" if len(pieces) > _SHOWN else ""
    return (
        f"the instruction {instructions[0][:80]!r}{count} has pieces that {encoder.identity.name} does not know: "
        f"{shown}{more}. All of them are one to it. {_CURE}"
    )
