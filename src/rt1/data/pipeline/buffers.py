"""Memory for batches of images, used again as soon as nothing refers to it."""

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
    """Which samples of the batch they are of, ascending."""
    image_NTHWC: NDArray[np.uint8]
    """uint8 RGB. Padding at the end is black, padding at the start is the episode's first image."""


class ImageBuffers:
    """Hands out arrays for images without clearing them, and uses memory again that comes back.

    Fresh memory costs a page fault every 4 kB, which is felt at hundreds of megabytes a batch. An array may be kept as
    long as one likes: its memory comes back when the last view of it, a torch tensor included, is gone. So no more is
    held than was in use at once. With a CUDA device the memory is pinned, and comes from torch's own pool, which waits
    for copies to the device that are still under way.
    """

    def __init__(self) -> None:
        self._free: deque[NDArray[np.uint8]] = deque()
        self._pinned = torch.cuda.is_available()

    def take(self, size_B: NDArray[np.int64], sizes: Sequence[tuple[int, int]], steps: int) -> tuple[ImageGroup, ...]:
        """Return arrays of any content for a batch, a group for each size of image.

        Args:
            size_B: which of the sizes the images of each sample have.
            sizes: (height, width).
            steps: images of a sample.
        """
        # One piece of memory for all groups, as large as the largest images need, so that it can be used again.
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
        # A view through a memoryview: every later view has this array, not the memory below it, as its base, so that
        # nobody reads any more when it goes.
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
