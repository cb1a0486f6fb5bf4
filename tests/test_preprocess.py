"""Image preparation: Google's numbers, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from tests.reference.expand import compared

from rt1.preprocess import crop_margins, resize, shifted, to_float

SIZE = (300, 300)


@pytest.fixture(scope="module")
def recorded(reference: Path) -> dict[str, NDArray[Any]]:
    return dict(np.load(reference / "unit" / "preprocess.npz"))


def check_close(ours_XCHW: torch.Tensor, recorded: dict[str, NDArray[Any]], name: str, atol: float) -> None:
    ours, theirs = compared(ours_XCHW.permute(0, 2, 3, 1).numpy(), recorded, name)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=atol)


def test_uint8_images_become_googles_floats_to_the_last_bit(recorded: dict[str, NDArray[Any]]) -> None:
    image = to_float(torch.from_numpy(recorded["image_uint8"]))
    check_close(image[:, :, ::7, ::7], recorded, "eval_float", atol=0)


def test_the_training_crop_is_googles(recorded: dict[str, NDArray[Any]]) -> None:
    image = to_float(torch.from_numpy(recorded["image_uint8"]))
    y, x = (int(v) for v in recorded["train_offset_yx"])
    cropped = shifted(image, crop_margins(256, 320), (y, x))
    check_close(cropped[:, :, ::7, ::7], recorded, "train_float", atol=0)
    check_close(resize(cropped, SIZE)[:, :, ::3, ::3], recorded, "train_resized_300", atol=5e-6)


def test_resizing_stretches_as_google_does(recorded: dict[str, NDArray[Any]]) -> None:
    resized = resize(to_float(torch.from_numpy(recorded["image_uint8"])), SIZE)
    check_close(resized[:, :, ::3, ::3], recorded, "eval_resized_300", atol=5e-6)
    # The recorded sums are float32, each over 90,000 pixels.
    np.testing.assert_allclose(resized.sum((2, 3)).numpy(), recorded["eval_resized_300_sum"], rtol=1e-4)


def test_a_larger_image_is_resized_without_antialias(recorded: dict[str, NDArray[Any]]) -> None:
    gray = torch.from_numpy(recorded["image480_uint8"]).expand(-1, -1, -1, 3)
    check_close(resize(to_float(gray), SIZE)[:, :1], recorded, "image480_resized_300", atol=5e-6)


def test_a_ramp_is_resized_with_half_pixel_centres(reference: Path) -> None:
    recorded = dict(np.load(reference / "unit" / "resize_probe.npz"))
    rows, columns = np.mgrid[0:256, 0:320]
    ramp = torch.from_numpy((1000.0 * rows + columns).astype(np.float32))[None, None]
    check_close(resize(ramp, SIZE), recorded, "probe_resized", atol=0.05)


def test_an_image_of_the_wanted_size_is_left_alone() -> None:
    image = torch.rand(2, 3, 30, 20)
    assert resize(image, (30, 20)) is image


@given(
    height=st.integers(16, 300),
    width=st.integers(16, 300),
    share=st.floats(0, 1),
    data=st.data(),
)
def test_a_shift_moves_pixels_and_fills_with_black(height: int, width: int, share: float, data: st.DataObject) -> None:
    rows, columns = crop_margins(height, width, share)
    y, x = data.draw(st.integers(0, 2 * rows)), data.draw(st.integers(0, 2 * columns))
    image = torch.arange(1, height * width + 1, dtype=torch.float32).view(1, 1, height, width)
    padded = np.pad(image[0, 0].numpy(), ((rows, rows), (columns, columns)))
    out = shifted(image, (rows, columns), (y, x))
    np.testing.assert_array_equal(out[0, 0].numpy(), padded[y : y + height, x : x + width])


def test_the_margins_are_googles_for_its_image_size() -> None:
    assert crop_margins(256, 320) == (20, 50)
    assert crop_margins(512, 640) == (40, 100)
    assert crop_margins(256, 320, 0.0) == (0, 0)


def test_an_offset_outside_the_margins_is_refused() -> None:
    with pytest.raises(ValueError, match=r"crop offset \(41, 0\) must lie within \(0, 0\)\.\.\(40, 100\)"):
        shifted(torch.zeros(1, 3, 256, 320), (20, 50), (41, 0))


@pytest.mark.parametrize("shape", [(2, 20, 20, 1), (2, 20, 20, 4), (2, 20, 20), (2, 3, 20, 20)])
def test_an_image_that_is_not_rgb_is_refused_with_its_shape(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="must be RGB"):
        to_float(torch.zeros(shape, dtype=torch.uint8))


@pytest.mark.parametrize("value", [-0.1, 1.5, 255.0, float("nan")])
def test_a_float_image_outside_zero_to_one_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match=r"must lie in \[0, 1\]. Divide by 255"):
        to_float(torch.full((1, 4, 4, 3), value))


def test_another_integer_type_is_refused() -> None:
    with pytest.raises(ValueError, match=r"dtype torch\.int64, must be uint8"):
        to_float(torch.zeros((1, 4, 4, 3), dtype=torch.int64))
