"""The statistics LeRobot keeps of every feature, per episode and of the whole data set."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Stats = dict[str, NDArray[Any]]
"""``min``, ``max``, ``mean``, ``std``, ``q01`` .. ``q99`` of each entry, float64, and ``count`` (1,), int64."""

QUANTILES = {"q01": 0.01, "q10": 0.1, "q50": 0.5, "q90": 0.9, "q99": 0.99}
STATISTICS = ("min", "max", "mean", "std", "count", *QUANTILES)


def vector_stats(values: NDArray[Any]) -> Stats:
    """Return the statistics of (steps, n) numbers, each (n,)."""
    wide = values.astype(np.float64)
    quantiles = np.quantile(wide, list(QUANTILES.values()), axis=0)
    return {
        "min": wide.min(axis=0),
        "max": wide.max(axis=0),
        "mean": wide.mean(axis=0),
        "std": wide.std(axis=0),
        "count": np.array([len(wide)], dtype=np.int64),
        **dict(zip(QUANTILES, quantiles, strict=True)),
    }


def image_stats(images: Sequence[NDArray[np.uint8]]) -> Stats:
    """Return the statistics of uint8 RGB (H, W, 3) images of one size, each (3, 1, 1), scaled to 0..1.

    Taken from a grid of about 64 x 64 of their places, by counting how often each of the 256 values occurs.
    """
    stride = max(1, min(images[0].shape[:2]) // 64)
    pixels = np.stack([image[::stride, ::stride] for image in images]).reshape(-1, 3)
    channels = [_counted(np.bincount(pixels[:, channel], minlength=256)) for channel in range(3)]
    stats = {name: np.array([c[name] for c in channels]).reshape(3, 1, 1) for name in channels[0]}
    return {**stats, "count": np.array([len(images)], dtype=np.int64)}


def _counted(counts: NDArray[np.int64]) -> dict[str, float]:
    levels = np.arange(256) / 255.0
    total, present = counts.sum(), np.flatnonzero(counts)
    mean = float(counts @ levels / total)
    reached = np.cumsum(counts) / total
    return {
        "min": float(levels[present[0]]),
        "max": float(levels[present[-1]]),
        "mean": mean,
        "std": float(np.sqrt(counts @ (levels - mean) ** 2 / total)),
        **{name: float(levels[np.searchsorted(reached, q)]) for name, q in QUANTILES.items()},
    }


def merged(one: Stats, other: Stats) -> Stats:
    """Return the statistics of both together; quantiles, which cannot be merged, are averaged as LeRobot does."""
    count = one["count"] + other["count"]
    share = float(other["count"][0] / count[0])
    apart = other["mean"] - one["mean"]
    variance = (1 - share) * one["std"] ** 2 + share * other["std"] ** 2 + share * (1 - share) * apart**2
    return {
        "min": np.minimum(one["min"], other["min"]),
        "max": np.maximum(one["max"], other["max"]),
        "mean": one["mean"] + share * apart,
        "std": np.sqrt(variance),
        "count": count,
        **{name: (1 - share) * one[name] + share * other[name] for name in QUANTILES},
    }
