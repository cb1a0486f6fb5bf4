"""Memory for batches of images, used again as soon as nothing refers to it."""

from __future__ import annotations

import math
import weakref
from collections import deque

import numpy as np
import torch
from numpy.typing import NDArray


class ImageBuffers:
    """Hands out uint8 arrays without clearing them; memory that comes back is handed out again.

    Fresh memory costs a page fault every 4 kB, which is felt at hundreds of megabytes a batch. An array may be kept as
    long as one likes: its memory comes back when the last view of it, a torch tensor included, is gone. So no more is
    held than was in use at once. With a CUDA device the memory is pinned, and comes from torch's own pool, which waits
    for copies to the device that are still under way.
    """

    def __init__(self) -> None:
        self._free: deque[NDArray[np.uint8]] = deque()
        self._pinned = torch.cuda.is_available()

    def take(self, shape: tuple[int, ...]) -> NDArray[np.uint8]:
        """Return an array of any content."""
        size = math.prod(shape)
        if self._pinned:
            return np.asarray(torch.empty(size, dtype=torch.uint8, pin_memory=True).numpy()).reshape(shape)
        memory = self._reused(size)
        # A view through a memoryview: every later view has this array, not the memory below it, as its base, so that
        # nobody reads any more when it goes.
        array = np.frombuffer(memory.data, np.uint8)
        weakref.finalize(array, self._free.append, memory).atexit = False
        return array.reshape(shape)

    def _reused(self, size: int) -> NDArray[np.uint8]:
        while True:
            try:
                memory = self._free.popleft()  # threads may take at the same time
            except IndexError:
                return np.empty(size, np.uint8)  # asks the system for large pages, which torch does not
            if memory.size == size:
                return memory
