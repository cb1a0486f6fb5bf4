"""Image preparation without torch: the numbers of the one with torch, whatever the sizes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from rt1.policy.exported_image import prepare_image
from rt1.preprocess import resize, to_float

SIDES = st.integers(1, 40)


def _with_torch(image: NDArray[Any], size: tuple[int, int]) -> NDArray[np.float32]:
    return resize(to_float(torch.from_numpy(image)[None]), size)[0].permute(1, 2, 0).float().numpy()


@settings(deadline=None, max_examples=60, derandomize=True)
@given(given_size=st.tuples(SIDES, SIDES), wanted=st.tuples(SIDES, SIDES), seed=st.integers(0, 99))
def test_an_image_of_any_size_is_stretched_as_torch_does(
    given_size: tuple[int, int], wanted: tuple[int, int], seed: int
) -> None:
    image = np.random.default_rng(seed).integers(0, 256, (*given_size, 3), dtype=np.uint8)
    prepared = prepare_image(image, wanted)
    assert prepared.dtype == np.float32
    np.testing.assert_allclose(prepared, _with_torch(image, wanted), rtol=0, atol=1e-6)


@pytest.mark.parametrize("size", [(256, 320), (480, 640), (300, 300), (96, 128)])
def test_camera_images_reach_the_size_of_the_network(size: tuple[int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    np.testing.assert_allclose(prepare_image(image, (300, 300)), _with_torch(image, (300, 300)), rtol=0, atol=3e-5)


def test_an_image_of_the_right_size_is_only_brought_to_float_bit_by_bit() -> None:
    image = np.arange(256 * 3, dtype=np.uint8).reshape(16, 16, 3)
    np.testing.assert_array_equal(prepare_image(image, (16, 16)), _with_torch(image, (16, 16)))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_float_image_is_taken_as_it_is(dtype: type[np.floating[Any]]) -> None:
    image = np.random.default_rng(0).random((12, 10, 3)).astype(dtype)
    np.testing.assert_allclose(prepare_image(image, (8, 9)), _with_torch(image, (8, 9)), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((4, 4), dtype=np.uint8), r"shape \(4, 4\), must be one RGB image"),
        (np.zeros((4, 4, 4), dtype=np.uint8), r"shape \(4, 4, 4\)"),
        (np.zeros((0, 4, 3), dtype=np.uint8), r"shape \(0, 4, 3\)"),
        (np.zeros((4, 4, 3), dtype=np.int64), "dtype int64, must be uint8"),
        (np.full((4, 4, 3), 200.0), r"spans \[200, 200\], must lie in \[0, 1\]. Divide by 255"),
        (np.full((4, 4, 3), np.nan), r"spans \[nan, nan\]"),
    ],
)
def test_what_is_no_image_is_refused(image: NDArray[Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        prepare_image(image, (8, 8))
