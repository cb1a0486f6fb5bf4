"""Text embeddings beside a LeRobot data set, which has no place for them: each different one once."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rt1.actions import FloatArray
from rt1.common.border import reading
from rt1.common.files import write_bytes
from rt1.data.lerobot.schema import COPY_AGAIN
from rt1.errors import DataError


@dataclass(frozen=True, kw_only=True)
class Embeddings:
    """The text embeddings of some episodes."""

    vectors: FloatArray
    """float32 (N, E), no two alike."""
    rows: NDArray[np.int64]
    """(episodes,) which of them each episode has."""

    def of_each(self) -> Iterable[FloatArray]:
        """Yield the embedding of each episode, float32 (E,)."""
        return (self.vectors[row] for row in self.rows)


def write_embeddings(path: Path, embeddings: Iterable[FloatArray]) -> None:
    """Write the embeddings of episodes, at least one, each float32 (E,)."""
    from safetensors.numpy import save

    numbers: dict[bytes, int] = {}
    rows = [numbers.setdefault(embedding.tobytes(), len(numbers)) for embedding in embeddings]
    vectors = np.frombuffer(b"".join(numbers), dtype=np.float32).reshape(len(numbers), -1)
    write_bytes(path, save({"vectors": vectors, "rows": np.array(rows, dtype=np.int64)}))


def read_embeddings(path: Path, *, episodes: int | None = None) -> Embeddings:
    """Read what :func:`write_embeddings` wrote.

    Raises:
        DataError: a missing or damaged file, one of another number of episodes where ``episodes`` is given.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    if not path.is_file():
        raise DataError(f"{path} is missing; {COPY_AGAIN}")
    with reading(path, cure=COPY_AGAIN, also=(SafetensorError,)):
        tensors = load(path.read_bytes())
        read = Embeddings(vectors=tensors["vectors"], rows=tensors["rows"])
    whole = read.vectors.ndim == 2 and read.rows.ndim == 1 and read.vectors.dtype == np.float32
    whole = (
        whole
        and bool(np.isfinite(read.vectors).all())
        and read.rows.dtype == np.int64
        and read.rows.min(initial=0) >= 0
    )
    if not whole or read.rows.max(initial=0) >= len(read.vectors) or episodes not in (None, len(read.rows)):
        shapes = f"vectors {read.vectors.dtype} {read.vectors.shape}, rows {read.rows.dtype} {read.rows.shape}"
        raise DataError(
            f"{path} holds {shapes}, which must be a finite vector for each of {episodes} episodes; {COPY_AGAIN}"
        )
    return read
