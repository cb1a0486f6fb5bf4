"""Work on large maps piece by piece: pieces that fit into the processor's cache, shared out among its threads.

Shape letters: X images, P positions of a map, C channels.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from threading import Barrier
from typing import NamedTuple

import torch
from torch import Tensor

CACHE_BYTES = 2 << 20
"""Bytes of a wide map that are worked on at once."""

Padding = tuple[int, int, int, int]
"""Zeros put at the left, right, top and bottom of a map."""


class DepthwiseShape(NamedTuple):
    """A depthwise convolution."""

    padding: Padding
    """Around the whole map."""
    stride: int
    kernel: int

    def size(self, height: int, width: int) -> tuple[int, int]:
        """Return height and width of its output."""
        left, right, top, bottom = self.padding
        return (
            (height + top + bottom - self.kernel) // self.stride + 1,
            (width + left + right - self.kernel) // self.stride + 1,
        )


class Piece(NamedTuple):
    """Some images, or some rows of one image, of a map and of what a depthwise convolution makes of them."""

    number: int
    images: slice
    inputs: slice
    """Rows of the map."""
    outputs: slice
    """Rows that are made of them; no other piece has them."""
    padding: Padding
    """Around these rows."""

    def input(self, map_XCHW: Tensor) -> Tensor:
        """Return the piece of the convolution's input, or of a map of that size."""
        return map_XCHW[self.images, :, self.inputs]

    def output(self, map_XCHW: Tensor) -> Tensor:
        """Return the piece of the convolution's output, or of a map of that size."""
        return map_XCHW[self.images, :, self.outputs]


def images(map_XCHW: Tensor) -> list[slice]:
    """Cut a map into some images each, at least one."""
    count = len(map_XCHW)
    step = max(1, CACHE_BYTES // (map_XCHW.element_size() * map_XCHW[0].numel()))
    return [slice(first, min(first + step, count)) for first in range(0, count, step)]


def pieces(map_XCHW: Tensor, channels: int, shape: DepthwiseShape) -> list[Piece]:
    """Cut a depthwise convolution whose input has the map's size and ``channels`` channels.

    Pieces of one image share the rows at their borders.
    """
    count, _, height, width = map_XCHW.shape
    rows, _ = shape.size(height, width)
    size = map_XCHW.element_size() * height * width * channels
    step = max(1, CACHE_BYTES // size)
    parts = max(1, min(rows, round(size / CACHE_BYTES)))
    cut = list[Piece]()
    for first in range(0, count, step):
        for part in range(parts):
            outputs = slice(rows * part // parts, rows * (part + 1) // parts)
            inputs, padding = _rows_behind(outputs, height, shape) if parts > 1 else (slice(0, height), shape.padding)
            cut.append(Piece(len(cut), slice(first, min(first + step, count)), inputs, outputs, padding))
    return cut


def _rows_behind(outputs: slice, height: int, shape: DepthwiseShape) -> tuple[slice, Padding]:
    """Return the input rows that some output rows are made of, and the padding around them."""
    left, right, top, _ = shape.padding
    first = outputs.start * shape.stride - top
    end = (outputs.stop - 1) * shape.stride - top + shape.kernel
    inputs = slice(max(0, first), min(height, end))
    return inputs, (left, right, inputs.start - first, end - inputs.stop)


def share_out(cut: Sequence[Piece] | Sequence[slice], work: Callable[..., None], totals: Sequence[Tensor] = ()) -> None:
    """Do some work on every piece, on as many threads as torch may use.

    Threads with pieces of their own cost less of the processor than the same number that share every operation: none
    waits for another after each, and what one has in its core's cache it finds there again. All pieces of an image are
    of one thread.

    Args:
        cut: the pieces, or the slices of images.
        work: is given a piece and tensors to add to.
        totals: what is added up over the pieces. Each thread has its own, and these are added in order, so that the
            result depends on the number of threads and on nothing else.
    """
    count = min(torch.get_num_threads(), len(cut))
    if count == 1:
        for piece in cut:
            work(piece, *totals)
        return
    end = _images(cut[-1]).stop
    own = [[torch.zeros_like(total) for total in totals] for _ in range(count)]

    @torch.no_grad()  # which holds for one thread, and a new one has gradients
    def run(number: int) -> None:
        for piece in cut:
            if _images(piece).start * count // end == number:
                work(piece, *own[number])

    list(_threads(torch.get_num_threads(), os.getpid()).map(run, range(count)))
    for parts in own:
        for total, part in zip(totals, parts, strict=True):
            total.add_(part)


def _images(piece: Piece | slice) -> slice:
    return piece.images if isinstance(piece, Piece) else piece


@lru_cache(maxsize=1)
def _threads(count: int, _process: int) -> ThreadPoolExecutor:
    """Return threads on which torch uses no further ones."""
    begun = Barrier(count + 1)

    def begin() -> None:
        torch.set_num_threads(1)
        torch.get_num_threads()  # a thread's first question takes over what was set last: now, not later
        begun.wait()

    pool = ThreadPoolExecutor(count, "rt1-pieces", initializer=begin)
    for _ in range(count):  # a thread is begun for each job that finds none free
        pool.submit(torch.get_num_threads)
    begun.wait()
    torch.set_num_threads(count)  # they also set what threads begun later have
    return pool


def rows(x_XCHW: Tensor) -> Tensor:
    """View a channels-last map as (X, P, C)."""
    return x_XCHW.permute(0, 2, 3, 1).flatten(1, 2)
