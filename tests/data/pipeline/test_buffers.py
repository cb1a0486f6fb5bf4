"""Memory of batches: used again, but never while anything still looks at it."""

from __future__ import annotations

import gc

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from rt1.data.pipeline.buffers import ImageBuffers

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="with a CUDA device torch keeps the pinned memory")


def _address(array: NDArray[np.uint8]) -> int:
    return int(array.__array_interface__["data"][0])


def _take(buffers: ImageBuffers, rows: int, height: int = 5, width: int = 3) -> NDArray[np.uint8]:
    (group,) = buffers.take(np.zeros(rows, np.int64), [(height, width)], 2)
    return group.image_NTHWC


def test_a_batch_has_a_group_for_each_size_that_it_holds() -> None:
    small, large = ImageBuffers().take(np.array([2, 0, 2, 2]), [(4, 5), (9, 9), (2, 3)], 6)
    assert (small.row_N.tolist(), large.row_N.tolist()) == ([1], [0, 2, 3])
    assert (small.image_NTHWC.shape, large.image_NTHWC.shape) == ((1, 6, 4, 5, 3), (3, 6, 2, 3, 3))
    small.image_NTHWC[...] = 1
    large.image_NTHWC[...] = 2
    assert (small.image_NTHWC == 1).all()


def test_memory_is_used_again_when_the_sizes_in_a_batch_change() -> None:
    buffers = ImageBuffers()
    groups = buffers.take(np.array([0, 1, 1]), [(4, 5), (2, 3)], 2)
    address = _address(groups[0].image_NTHWC)
    del groups
    assert _address(buffers.take(np.array([1, 1, 0]), [(4, 5), (2, 3)], 2)[0].image_NTHWC) == address


def test_memory_is_used_again_when_the_last_view_is_gone() -> None:
    buffers = ImageBuffers()
    array = _take(buffers, 4)
    address = _address(array)
    del array
    assert _address(_take(buffers, 4, 3, 5)) == address


@pytest.mark.parametrize("view", [lambda a: a[1], lambda a: a.reshape(-1), lambda a: torch.from_numpy(a)[2]])
def test_memory_that_a_view_or_tensor_looks_at_stays_its_own(view: object) -> None:
    buffers = ImageBuffers()
    array = _take(buffers, 4)
    array[...] = 7
    kept = view(array)  # type: ignore[operator]
    del array
    gc.collect()
    others = [_take(buffers, 4) for _ in range(3)]
    for other in others:
        other[...] = 9
    assert (np.asarray(kept) == 7).all()


def test_memory_of_another_size_is_let_go() -> None:
    buffers = ImageBuffers()
    array = _take(buffers, 8)
    del array
    assert _take(buffers, 16).shape == (16, 2, 5, 3, 3)


def test_arrays_outlive_their_buffers() -> None:
    array = _take(ImageBuffers(), 2)
    array[...] = 5
    gc.collect()
    assert (array == 5).all()
