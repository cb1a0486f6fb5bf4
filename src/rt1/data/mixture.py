"""The order of samples: a pure function of (seed, sample number), the same for any number of workers and ranks."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_ROUNDS = np.arange(1, 7, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)  # splitmix64's step; overflow wraps


def shuffled(samples: NDArray[np.int64], size: int, *, seed: int) -> NDArray[np.int64]:
    """Map global sample numbers to items of a set of ``size``, in an order shuffled anew at every pass.

    Args:
        samples: int64 (n,), global sample numbers counted from 0; pass ``p`` covers ``p*size .. (p+1)*size - 1``.
        size: items in the set.
        seed: seed of the order.

    Returns:
        int64 (n,) items 0..size-1; within one pass each item occurs exactly once.
    """
    if size < 1:
        raise ValueError(f"the set has {size} items; it must have at least one; check the data and the held-out share")
    passes, places = np.divmod(np.asarray(samples, dtype=np.int64), size)
    # A Feistel network permutes 0..2**bits - 1; walking on from values beyond the size stays a permutation.
    half = max(1, (int(size - 1).bit_length() + 1) // 2)
    values = places.astype(np.uint64)
    keys = _mix(np.uint64(seed & 0xFFFFFFFF) + (passes.astype(np.uint64) << np.uint64(32)))
    values = _feistel(values, keys, half)
    outside = values >= size
    while outside.any():
        values[outside] = _feistel(values[outside], keys[outside], half)
        outside = values >= size
    return values.astype(np.int64)


def _feistel(values: NDArray[np.uint64], keys: NDArray[np.uint64], half: int) -> NDArray[np.uint64]:
    bits, mask = np.uint64(half), np.uint64((1 << half) - 1)
    left, right = values >> bits, values & mask
    for number in _ROUNDS:
        # A key of its own for each round: with keys that are neighbours, items favour their own place.
        left, right = right, left ^ (_mix(right + _mix(keys + number)) & mask)
    return (left << bits) | right


def _mix(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Scramble 64-bit values (the finalizer of splitmix64); overflow wraps, as intended."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
