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


def test_memory_is_used_again_when_the_last_view_is_gone() -> None:
    buffers = ImageBuffers()
    array = buffers.take((4, 5, 3))
    address = _address(array)
    del array
    assert _address(buffers.take((3, 4, 5))) == address


@pytest.mark.parametrize("view", [lambda a: a[1], lambda a: a.reshape(-1), lambda a: torch.from_numpy(a)[2]])
def test_memory_that_a_view_or_tensor_looks_at_stays_its_own(view: object) -> None:
    buffers = ImageBuffers()
    array = buffers.take((4, 5))
    array[...] = 7
    kept = view(array)  # type: ignore[operator]
    del array
    gc.collect()
    others = [buffers.take((4, 5)) for _ in range(3)]
    for other in others:
        other[...] = 9
    assert (np.asarray(kept) == 7).all()


def test_memory_of_another_size_is_let_go() -> None:
    buffers = ImageBuffers()
    array = buffers.take((8,))
    del array
    assert buffers.take((16,)).shape == (16,)


def test_arrays_outlive_their_buffers() -> None:
    array = ImageBuffers().take((2, 3))
    array[...] = 5
    gc.collect()
    assert (array == 5).all()
