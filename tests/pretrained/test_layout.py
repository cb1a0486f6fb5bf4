"""Layouts of TensorFlow and flax, and the pixel constants of Google's code."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from rt1.model.rt1 import PIXEL_MEAN, PIXEL_STD, RT1, RT1Config
from rt1.presets import preset
from rt1.pretrained.layout import (
    Kind,
    Skipped,
    Weight,
    fill,
    grouped,
    pixel_mean,
    pixel_std,
    source_shape,
    to_torch,
)

CONFIG = RT1Config()


@pytest.mark.parametrize(
    ("kind", "target", "source"),
    [
        ("copy", (7,), (7,)),
        ("dense", (5, 3), (3, 5)),
        ("dense_1x1", (5, 3), (1, 1, 3, 5)),
        ("conv", (5, 3, 2, 2), (2, 2, 3, 5)),
        ("depthwise", (6, 1, 3, 3), (3, 3, 6, 1)),
        ("heads_in", (1024, 512), (512, 8, 128)),
        ("heads_out", (512, 1024), (8, 128, 512)),
        ("heads_bias", (1024,), (8, 128)),
    ],
)
def test_each_layout_has_its_shape_and_comes_out_in_ours(
    kind: Kind, target: tuple[int, ...], source: tuple[int, ...]
) -> None:
    assert source_shape(Weight(name="x", key="x", kind=kind), target, CONFIG) == source
    array = np.arange(np.prod(source), dtype=np.float32).reshape(source)
    assert tuple(to_torch(array, kind, target).shape) == target


def test_a_dense_layer_computes_the_same_in_both_layouts() -> None:
    kernel, x = np.random.default_rng(0).random((3, 2, 4)), np.random.default_rng(1).random(3)
    ours = to_torch(kernel, "heads_in", (8, 3)).double() @ torch.from_numpy(x)
    np.testing.assert_allclose(ours.view(2, 4).numpy(), np.einsum("d,dhk->hk", x, kernel), rtol=1e-6)


def test_a_convolution_computes_the_same_in_both_layouts() -> None:
    kernel = np.random.default_rng(0).random((1, 1, 3, 4)).astype(np.float32)
    x = np.random.default_rng(1).random((2, 2, 3)).astype(np.float32)
    weight = to_torch(kernel, "conv", (4, 3, 1, 1))
    ours = torch.nn.functional.conv2d(torch.from_numpy(x).permute(2, 0, 1)[None], weight)[0].permute(1, 2, 0)
    np.testing.assert_allclose(ours.numpy(), x @ kernel[0, 0], rtol=1e-5)


def test_the_constants_of_the_released_files_are_those_of_imagenet() -> None:
    # All three released files hold the deviations where Keras' layer has its variance.
    np.testing.assert_allclose(pixel_mean(np.array(PIXEL_MEAN, np.float32)), np.array(PIXEL_MEAN), rtol=1e-6)
    np.testing.assert_allclose(pixel_std(np.array(PIXEL_STD, np.float32)), np.array(PIXEL_STD), rtol=1e-6)


def test_skipped_tensors_are_grouped_by_reason() -> None:
    skipped = [Skipped(name="a", reason="x"), Skipped(name="b", reason="y"), Skipped(name="c", reason="x")]
    assert grouped(skipped) == {"x": ("a", "c"), "y": ("b",)}


@pytest.mark.parametrize(
    ("array", "problem"),
    [
        (np.full((11, 16), np.nan, np.float32), "not finite"),
        (np.full((11, 16), 1e300), "of size 1e\\+300"),
        (np.ones((11, 16), np.int32), "is int32"),
        (np.ones((11, 16), np.bool_), "is bool"),
    ],
)
def test_an_array_that_is_no_weight_is_not_filled_in(array: NDArray[Any], problem: str) -> None:
    model = RT1(preset("debug").model)
    key = "transformer.output.weight"
    shape = model.state_dict()[key].shape
    weight = Weight(name="w/kernel", key=key, kind="dense")
    with pytest.raises(ValueError, match=f"'w/kernel' .*{problem}"):
        fill(model, [weight], lambda _: np.resize(array, shape[::-1]))


def test_a_negative_variance_of_pixels_is_refused() -> None:
    model = RT1(preset("debug").model)
    weight = Weight(name="variance", key="pixel_std", kind="pixel_variance")
    with pytest.raises(ValueError, match=r"'variance'.*not finite"):
        fill(model, [weight], lambda _: np.array([-1.0, 1.0, 1.0], np.float32))
