"""Text embeddings of a LeRobot data set in a file of our own, since the format has no field for them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from rt1.actions import FloatArray
from rt1.common.border import reading
from rt1.common.files import write_bytes
from rt1.data.lerobot.schema import COPY_AGAIN
from rt1.errors import DataError


class Embeddings(NamedTuple):
    """The distinct text embeddings, float32 (N, E), and which of them each episode has, int64 (episodes,)."""

    vectors: FloatArray
    rows: NDArray[np.int64]


def write_embeddings(path: Path, embeddings: Iterable[FloatArray]) -> None:
    """Write the embeddings of one or more episodes, each float32 (E,)."""
    from safetensors.numpy import save

    numbers: dict[bytes, int] = {}
    rows = [numbers.setdefault(embedding.tobytes(), len(numbers)) for embedding in embeddings]
    vectors = np.frombuffer(b"".join(numbers), dtype=np.float32).reshape(len(numbers), -1)
    write_bytes(path, save({"vectors": vectors, "rows": np.array(rows, dtype=np.int64)}))


def read_embeddings(path: Path, *, episodes: int | None = None) -> Embeddings:
    """Read what :func:`write_embeddings` wrote; damage or another number of episodes raises :class:`DataError`."""
    from safetensors import SafetensorError
    from safetensors.numpy import load

    if not path.is_file():
        raise DataError(f"{path} is missing; {COPY_AGAIN}")
    with reading(path, cure=COPY_AGAIN, also=(SafetensorError,)):
        tensors = load(path.read_bytes())
        vectors, rows = tensors["vectors"], tensors["rows"]
    types = vectors.ndim == 2 and rows.ndim == 1 and vectors.dtype == np.float32 and rows.dtype == np.int64
    sound = types and np.isfinite(vectors).all() and rows.min(initial=0) >= 0
    if not sound or rows.max(initial=0) >= len(vectors) or episodes not in (None, len(rows)):
        shapes = f"vectors {vectors.dtype} {vectors.shape}, rows {rows.dtype} {rows.shape}"
        rule = f"which must be a finite vector for each of {episodes} episodes"
        raise DataError(f"{path} holds {shapes}, {rule}; {COPY_AGAIN}")
    return Embeddings(vectors, rows)
