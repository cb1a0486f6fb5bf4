"""LeRobot's statistics: exact for the values, and parts add up to the whole."""

from __future__ import annotations

import functools

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from rt1.data.lerobot.metadata import QUANTILES, image_stats, merged, vector_stats


def test_vectors_have_their_statistics_per_entry() -> None:
    stats = vector_stats(np.array([[0.0, 5.0], [1.0, 5.0], [2.0, 5.0]], np.float32))
    assert stats["min"].tolist() == [0, 5]
    assert stats["max"].tolist() == [2, 5]
    assert np.allclose(stats["std"], [np.sqrt(2 / 3), 0])
    assert stats["q50"].tolist() == [1, 5]
    assert stats["count"].tolist() == [3]


def test_images_have_their_statistics_per_channel_from_0_to_1() -> None:
    image = np.zeros((8, 8, 3), np.uint8)
    image[:4, :, 0], image[..., 2] = 255, 51
    stats = image_stats([image, image])
    assert stats["mean"].shape == (3, 1, 1)
    assert np.allclose(stats["mean"].ravel(), [0.5, 0.0, 0.2])
    assert np.allclose(stats["std"].ravel(), [0.5, 0.0, 0.0])
    assert stats["max"].ravel().tolist() == [1.0, 0.0, 0.2]
    assert stats["count"].tolist() == [2]


@given(st.lists(st.integers(1, 9), min_size=1, max_size=6), st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_the_parts_add_up_to_the_whole(lengths: list[int], seed: int) -> None:
    values = np.random.default_rng(seed).normal(size=(sum(lengths), 2))
    parts = [vector_stats(part) for part in np.split(values, np.cumsum(lengths)[:-1])]
    whole, total = vector_stats(values), functools.reduce(merged, parts)
    for name in set(whole) - set(QUANTILES):
        assert np.allclose(total[name], whole[name]), name
