"""What must hold of any source that could be opened: all of it can be read, or is refused in one line."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np

from rt1.data.sources.base import EpisodeSource
from rt1.data.sources.decoding import decoded_images


def assert_readable(source: EpisodeSource) -> None:
    """Read all of a source. A ``DataError`` passes on; values that no data set may have fail."""
    started = time.process_time()
    for episode, length in enumerate(source.lengths.tolist()):
        actions = source.actions(episode, 0, length)
        assert actions.dtype == np.float32
        assert actions.shape == (length, source.action_spec.size)
        assert np.isfinite(actions).all()
        source.instruction(episode).strip().encode()
        vector = source.text_embedding(episode)
        assert vector is None or (vector.dtype == np.float32 and vector.ndim == 1 and np.isfinite(vector).all())
        images = decoded_images(source, episode, 0, length)
        assert all(image.dtype == np.uint8 and image.shape[2] == 3 and image.size for image in images)
    assert time.process_time() - started < 1.0


def write_anew(path: Path, data: bytes) -> None:
    """Replace a file by another one: HDF5 and a memory map may still hold the old one open."""
    path.unlink(missing_ok=True)
    path.write_bytes(data)
