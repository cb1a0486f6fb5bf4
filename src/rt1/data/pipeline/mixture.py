"""The order of samples: a pure function of (seed, sample number), the same for any number of workers and ranks."""

from __future__ import annotations

import functools
import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rt1.data.pipeline.windows import Clips, ClipWindows, WindowBounds, Windows
from rt1.data.sources.base import EpisodeSource
from rt1.data.sources.concat import origin
from rt1.data.sources.decoding import decoded_images

_BLOCK = 8192  # samples whose order is computed at once

LONGEST_PERIOD = 100_000
"""Most samples after which the schedule of a mixture repeats: one period is held in memory."""

_ROUNDS = np.arange(1, 7, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)  # splitmix64's step, overflow wraps
_NEXT_SEED = 0x9E3779B1  # seeds of a mixture's sources lie this far apart, modulo 2^32


def shuffled(samples: NDArray[np.int64], size: int, *, seed: int) -> NDArray[np.int64]:
    """Return the items 0..size-1, int64 (n,), of global sample numbers, int64 (n,), counted from 0.

    Pass ``p`` covers the samples ``p*size .. (p+1)*size - 1``. It holds each item once, in an order of its own.
    """
    if size < 1:
        raise ValueError(f"the set has {size} items. It must have at least one. Check the data and the held-out share")
    passes, places = np.divmod(np.asarray(samples, dtype=np.int64), size)
    # A Feistel network permutes 0..2**bits - 1. Walking on from values beyond the size stays a permutation.
    half = max(1, (int(size - 1).bit_length() + 1) // 2)
    values = places.astype(np.uint64)
    keys = scrambled(np.uint64(seed & 0xFFFFFFFF) + (passes.astype(np.uint64) << np.uint64(32)))
    values = _feistel(values, keys, half)
    outside = values >= size
    while outside.any():
        values[outside] = _feistel(values[outside], keys[outside], half)
        outside = values >= size
    return values.astype(np.int64)


@dataclass(frozen=True, kw_only=True, eq=False)
class Mixture:
    """Samples of several sources, taken in turns: after any n samples each has its share of them, within 1.

    Sample numbers go to parts by a fixed schedule, and within a part through its samples in the order of
    :func:`shuffled`. Items 0..len-1 are the samples of the first part, then those of the second, and so on.
    """

    parts: tuple[Windows | Clips, ...]
    """Samples of each source, with lengths and episode numbers of the joined source."""
    weights: tuple[float, ...]
    """One weight per part, above 0."""

    def __post_init__(self) -> None:
        if len(self.parts) != len(self.weights) or not self.parts:
            raise ValueError(f"a mixture of {len(self.parts)} parts has {len(self.weights)} weights. Give one for each")
        kinds = {(type(part).__name__, part.window, part.steps) for part in self.parts}
        if len(kinds) > 1:
            raise ValueError(f"the parts are {sorted(kinds)} (kind, window, steps). All must be of one kind and size")
        if empty := [number for number, part in enumerate(self.parts) if not len(part)]:
            raise ValueError(f"parts {empty} of the mixture have no samples. Give them episodes or leave them out")
        _shares(self.weights)

    def __len__(self) -> int:
        return int(self._ends[-1])

    @property
    def steps(self) -> int:
        """Steps of a sample."""
        return self.parts[0].steps

    def schedule(self, samples: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the part of each global sample number, and its number among that part's samples, each int64 (n,)."""
        part_of_turn, rank_of_turn, shares = self._period
        periods, turns = np.divmod(np.asarray(samples, dtype=np.int64), len(part_of_turn))
        parts = part_of_turn[turns]
        return parts, periods * shares[parts] + rank_of_turn[turns]

    def order(self, samples: NDArray[np.int64], *, seed: int) -> NDArray[np.int64]:
        """Return the item of each global sample number, int64 (n,)."""
        parts, numbers = self.schedule(samples)
        items = np.empty_like(numbers)
        for part in np.unique(parts).tolist():
            mask, size = parts == part, len(self.parts[part])
            items[mask] = shuffled(numbers[mask], size, seed=seed + part * _NEXT_SEED) + self._ends[part] - size
        return items

    def passes(self, samples: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return how often each sample's part was taken in full before it, int64 (n,)."""
        parts, numbers = self.schedule(samples)
        return numbers // np.array([len(part) for part in self.parts])[parts]

    def places(self, numbers: NDArray[np.int64]) -> WindowBounds:
        """Return the places of items by number, int64 (n,)."""
        return self._samples.places(numbers)

    def cuts(self, numbers: NDArray[np.int64]) -> ClipWindows | None:
        """Return how the windows of clips are cut, or None where the samples are windows."""
        return self._samples.cuts(numbers)

    def describe(self) -> dict[str, Any]:
        """Return what decides the order as plain data, for comparison."""
        return {"parts": [part.describe() for part in self.parts], "shares": list(_shares(self.weights))}

    @cached_property
    def _samples(self) -> Windows | Clips:
        """Return the samples of all parts in the order of the items."""
        windows = [part.windows if isinstance(part, Clips) else part for part in self.parts]
        together = replace(windows[0], episodes=np.concatenate([part.episodes for part in windows]))
        return replace(self.parts[0], windows=together) if isinstance(self.parts[0], Clips) else together

    @cached_property
    def _ends(self) -> NDArray[np.int64]:
        return np.cumsum([len(part) for part in self.parts])

    @cached_property
    def _period(self) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Return the part of each turn of a period, the turns this part had before, and all turns of each part."""
        shares = _shares(self.weights)
        parts = _schedule(shares)
        ranks = np.empty_like(parts)
        for part, share in enumerate(shares):
            ranks[parts == part] = np.arange(share)
        return parts, ranks, np.array(shares)


def image_sizes(
    source: EpisodeSource, samples: Windows | Clips | Mixture
) -> tuple[list[tuple[int, int]], NDArray[np.int64]]:
    """Return all (height, width) of images, and the number of its size for every episode.

    Only the first image of each part is read.
    """
    numbers: dict[tuple[int, int], int] = {}
    size_E = np.zeros(len(source.lengths), dtype=np.int64)
    for part in samples.parts if isinstance(samples, Mixture) else (samples,):
        episodes = part.windows.episodes if isinstance(part, Clips) else part.episodes
        height, width, _ = decoded_images(*origin(source, int(episodes[0])), 0, 1)[0].shape
        size_E[episodes] = numbers.setdefault((height, width), len(numbers))
    return list(numbers), size_E


class SampleOrder:
    """The endless shuffled stream of one source or a mixture, a pure function of the seed and the sample number.

    It is computed for a block of samples at once: numpy needs as long for the 32 samples of a batch as for a thousand.
    """

    def __init__(self, items: Windows | Clips | Mixture, *, seed: int) -> None:
        self._items, self._seed = items, seed
        self._block = functools.lru_cache(maxsize=2)(self._new_block)

    def samples(self, first: int, count: int) -> tuple[NDArray[np.int64], WindowBounds]:
        """Return the items of samples ``first..first+count-1``, int64 (count,), and their places."""
        blocks = range(first // _BLOCK, (first + count - 1) // _BLOCK + 1)
        cuts = [self._block(n)[:, max(0, first - n * _BLOCK) : first + count - n * _BLOCK] for n in blocks]
        items, *places = np.concatenate(cuts, axis=1)
        return items, WindowBounds(*places)

    def _new_block(self, number: int) -> NDArray[np.int64]:
        """Return the items and the columns of their places, (4, block)."""
        samples = np.arange(number * _BLOCK, (number + 1) * _BLOCK)
        if isinstance(self._items, Mixture):
            items = self._items.order(samples, seed=self._seed)
        else:
            items = shuffled(samples, len(self._items), seed=self._seed)
        return np.stack([items, *self._items.places(items)])


def _shares(weights: tuple[float, ...]) -> tuple[int, ...]:
    """Return the smallest whole numbers in proportion to the weights, read as decimals."""
    if not all(0.0 < weight < math.inf for weight in weights):
        raise ValueError(f"the weights are {weights}. Each must be a number above 0. Leave a source of weight 0 out")
    exact = [Fraction(str(weight)) for weight in weights]
    whole = [int(weight * math.lcm(*(weight.denominator for weight in exact))) for weight in exact]
    shares = tuple(number // math.gcd(*whole) for number in whole)
    if sum(shares) > LONGEST_PERIOD:
        rounded = [max(1, round(1000 * weight / sum(exact))) for weight in exact]
        raise ValueError(
            f"the weights {weights} repeat after {sum(shares):,} samples. The most is {LONGEST_PERIOD:,}. "
            f"Round them, for instance to {rounded}"
        )
    return shares


def _schedule(shares: Sequence[int]) -> NDArray[np.int64]:
    """Return the part of each of ``sum(shares)`` turns, each part's count within 1 of its share at every turn.

    The j-th turn of a part with share c of n has to fall in floor(j*n/c) .. ceil((j+1)*n/c) - 1 for that. Taking the
    one that is due first of those that may come always meets it (Tijdeman's chairman assignment).
    """
    total = sum(shares)
    taken = [0] * len(shares)
    waiting = [(0, part) for part in range(len(shares))]
    ready: list[tuple[int, int]] = []
    turns = np.empty(total, dtype=np.int64)
    for turn in range(total):
        while waiting and waiting[0][0] <= turn:
            part = heapq.heappop(waiting)[1]
            due = -(-(taken[part] + 1) * total // shares[part]) - 1
            heapq.heappush(ready, (due, part))
        part = heapq.heappop(ready)[1]
        turns[turn] = part
        taken[part] += 1
        if taken[part] < shares[part]:
            heapq.heappush(waiting, (taken[part] * total // shares[part], part))
    return turns


def _feistel(values: NDArray[np.uint64], keys: NDArray[np.uint64], half: int) -> NDArray[np.uint64]:
    bits, mask = np.uint64(half), np.uint64((1 << half) - 1)
    left, right = values >> bits, values & mask
    for number in _ROUNDS:
        # Each round has another key: with similar keys many items keep their place.
        left, right = right, left ^ (scrambled(right + scrambled(keys + number)) & mask)
    return (left << bits) | right


def scrambled(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return 64-bit values hashed by the finalizer of splitmix64, each by itself. Overflow wraps, as intended."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
