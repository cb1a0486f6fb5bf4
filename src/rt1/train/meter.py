"""Means, speeds, data wait and memory of the updates since the last record of metrics."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

import torch

from rt1.common.system import peak_memory

T = TypeVar("T")


class Meter:
    """Accumulates the values of updates and returns their means. Can be saved and restored."""

    def __init__(self) -> None:
        self._sums: Any = Counter()  # of any numbers, not only of counts
        self._counts: Any = Counter()
        self._waited = 0.0
        self._since = time.monotonic()
        self._paused: float | None = None

    def add(self, values: Mapping[str, float]) -> None:
        """Add the values of one update."""
        self._sums.update(values)
        self._counts["updates"] += 1

    def count(self, *, windows: float, images: float) -> None:
        """Count what one update worked on."""
        self._counts["windows"] += windows
        self._counts["images"] += images

    def waiting(self, batches: Iterable[T]) -> Iterator[T]:
        """Yield batches, and measure how long each was waited for."""
        start = time.monotonic()
        for batch in batches:
            self._waited += time.monotonic() - start
            yield batch
            del batch  # its memory serves the next one
            start = time.monotonic()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Stop the clock during a validation or a checkpoint."""
        self._paused = time.monotonic()
        try:
            yield
        finally:
            self._since += time.monotonic() - self._paused
            self._paused = None

    def take(self) -> dict[str, float]:
        """Return the means since the last call, speeds and memory (see docs/training.md), and start over."""
        now = self._now()
        seconds = max(now - self._since, 1e-9)
        means = {name: total / self._counts["updates"] for name, total in self._sums.items()}
        means["windows_per_second"] = self._counts["windows"] / seconds
        means["images_per_second"] = self._counts["images"] / seconds
        means["data_wait"] = min(1.0, self._waited / seconds)
        means |= memory()
        self._sums.clear()
        self._counts.clear()
        self._waited, self._since = 0.0, now
        return means

    def _now(self) -> float:
        """Return the time of the clock, which stops during a pause."""
        return time.monotonic() if self._paused is None else self._paused

    def state_dict(self) -> dict[str, Any]:
        """Return what :meth:`load_state_dict` needs, as plain data."""
        seconds = self._now() - self._since
        return {"sums": dict(self._sums), "counts": dict(self._counts), "waited": self._waited, "seconds": seconds}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a state."""
        self._sums, self._counts = Counter(state["sums"]), Counter(state["counts"])
        self._waited = float(state["waited"])
        self._since = time.monotonic() - float(state["seconds"])


def memory() -> dict[str, float]:
    """Return the peak memory so far in GB (1e9 bytes): of this process, and of its accelerator where it uses one."""
    gigabytes: dict[str, float] = {}
    if (peak := peak_memory()) is not None:
        gigabytes["memory_gb"] = peak / 1e9
    if torch.accelerator.is_available():
        peak_of_device = getattr(torch.get_device_module(), "max_memory_allocated", int)  # torch.mps has none
        if peak := peak_of_device():
            gigabytes["gpu_memory_gb"] = peak / 1e9
    return gigabytes
