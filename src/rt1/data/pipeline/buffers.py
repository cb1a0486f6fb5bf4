"""Memory for batches of images, reused as soon as nothing refers to it."""

from __future__ import annotations

import math
import weakref
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray


class ImageGroup(NamedTuple):
    """The images of one size in a batch."""

    row_N: NDArray[np.int64]
    """Samples of the batch that they belong to, ascending."""
    image_NTHWC: NDArray[np.uint8]
    """uint8 RGB. Padding at the end is black, padding at the start is the episode's first image."""


class ImageBuffers:
    """A pool of uncleared arrays for images.

    New memory costs a page fault every 4 kB, which is slow at hundreds of megabytes a batch. The memory of an array
    returns to the pool when its last view, torch tensors included, is gone. With a CUDA device the memory is pinned and
    comes from torch's own pool, which waits for unfinished copies to the device.
    """

    def __init__(self) -> None:
        self._free: deque[NDArray[np.uint8]] = deque()
        self._pinned = torch.cuda.is_available()

    def take(self, size_B: NDArray[np.int64], sizes: Sequence[tuple[int, int]], steps: int) -> tuple[ImageGroup, ...]:
        """Return uncleared arrays for a batch, one group per size of image.

        ``size_B`` holds for each sample the index of its (height, width) in ``sizes``. A sample has ``steps`` images.
        """
        # All groups share one block, as large as the largest images need, so that every batch can reuse it.
        memory = self._bytes(3 * len(size_B) * steps * max(height * width for height, width in sizes))
        groups, begin = [], 0
        for number, size in enumerate(sizes):
            row_N = np.flatnonzero(size_B == number)
            end = begin + 3 * len(row_N) * steps * math.prod(size)
            if end > begin:
                groups.append(ImageGroup(row_N, memory[begin:end].reshape(len(row_N), steps, *size, 3)))
            begin = end
        return tuple(groups)

    def _bytes(self, size: int) -> NDArray[np.uint8]:
        if self._pinned:
            return np.asarray(torch.empty(size, dtype=torch.uint8, pin_memory=True).numpy())
        memory = self._reused(size)
        # Through a memoryview every later view has this array as its base, not the memory below it.
        array = np.frombuffer(memory.data, np.uint8)
        weakref.finalize(array, self._free.append, memory).atexit = False
        return array

    def _reused(self, size: int) -> NDArray[np.uint8]:
        while True:
            try:
                memory = self._free.popleft()  # threads may take at the same time
            except IndexError:
                return np.empty(size, np.uint8)  # asks the system for large pages, which torch does not
            if memory.size == size:
                return memory
