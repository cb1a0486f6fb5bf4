"""Instruction to vector: the protocol every text encoder satisfies, and the table of precomputed vectors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True)
class TextEncoderIdentity:
    """Which encoder made a vector. Stored in checkpoints and data; another one is refused."""

    name: str
    """Encoder name, e.g. ``all-MiniLM-L6-v2``."""
    sha256: str
    """Hash of its weights, or of a table's content."""
    width: int
    """E: entries of a text embedding."""


@runtime_checkable
class TextEncoder(Protocol):
    """Turns instructions into text embeddings, deterministically."""

    identity: TextEncoderIdentity
    """What it is; two encoders with one identity give the same vectors."""

    def encode(self, instructions: Sequence[str]) -> NDArray[np.float32]:
        """Return float32 (B, E), one row per instruction; an empty instruction raises ``ValueError``."""
        ...
