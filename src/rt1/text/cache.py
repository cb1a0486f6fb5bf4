"""A text encoder with a cache on disk."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rt1.common.files import replacing, user_cache
from rt1.text.encoder import TextEncoder, check_instructions


class CachedEncoder:
    """Encodes each sentence once. The cache has a folder per encoder identity and a file per sentence."""

    def __init__(self, encoder: TextEncoder, folder: Path | None = None) -> None:
        """Wrap an encoder; ``folder`` is :func:`cache_folder` if None."""
        self._encoder = encoder
        self.identity = encoder.identity
        content = json.dumps(encoder.identity.to_json(), sort_keys=True)
        self._folder = (folder or cache_folder()) / hashlib.sha256(content.encode()).hexdigest()[:16]

    def encode(self, instructions: Sequence[str]) -> NDArray[np.float32]:
        """Return float32 (B, E), one row per instruction. The new ones are encoded in one call."""
        check_instructions(instructions)
        rows = {sentence: row for sentence in instructions if (row := self._read(sentence)) is not None}
        if missing := [sentence for sentence in dict.fromkeys(instructions) if sentence not in rows]:
            for sentence, row in zip(missing, self._encoder.encode(missing), strict=True):
                rows[sentence] = row
                with replacing(self._path(sentence)) as temporary:
                    row.astype("<f4").tofile(temporary)
        return np.stack([rows[sentence] for sentence in instructions])

    def _path(self, sentence: str) -> Path:
        return self._folder / f"{hashlib.sha256(sentence.encode()).hexdigest()}.f32"

    def _read(self, sentence: str) -> NDArray[np.float32] | None:
        try:
            row = np.fromfile(self._path(sentence), dtype="<f4")
        except OSError:
            return None
        is_whole = row.shape == (self.identity.width,) and bool(np.isfinite(row).all())
        return row.astype(np.float32) if is_whole else None  # half a file is made again


def cache_folder() -> Path:
    return user_cache() / "text"
