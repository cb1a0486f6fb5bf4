"""Pictures of environments become uint8 RGB where the rule is clear."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from rt1.envs.pictures import decode_picture, encode_picture, pictures_in, rgb_picture


def test_an_rgb_picture_is_copied() -> None:
    picture = np.full((4, 5, 3), 7, np.uint8)
    image = rgb_picture(picture, "it")
    picture[:] = 9
    assert (image == 7).all()
    assert image.flags.c_contiguous


def test_gray_and_float_pictures_are_converted() -> None:
    np.testing.assert_array_equal(rgb_picture(np.full((4, 5), 7, np.uint8), "it"), np.full((4, 5, 3), 7))
    floats = rgb_picture(np.array([[[0.0, 0.5, 1.0]]]), "it")
    assert floats.tolist() == [[[0, 128, 255]]]
    assert floats.dtype == np.uint8


@pytest.mark.parametrize(
    ("picture", "message"),
    [
        (None, "it is NoneType"),
        (np.zeros((3, 8, 8), np.uint8), r"\(3, 8, 8\)"),
        (np.zeros((8, 8, 4), np.uint8), r"\(8, 8, 4\)"),
        (np.zeros((0, 8, 3), np.uint8), r"\(0, 8, 3\)"),
        (np.zeros((8, 8, 3), np.int32), "int32"),
        (np.full((8, 8, 3), 2.0), r"2\.\.2"),
        (np.full((8, 8, 3), np.nan), "nan"),
    ],
)
def test_what_has_no_clear_rule_is_refused(picture: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        rgb_picture(picture, "it")


def test_pictures_are_found_by_their_keys() -> None:
    picture = np.zeros((8, 8, 3), np.uint8)
    assert pictures_in(picture) == [""]
    assert pictures_in({"pixels": {"top": picture, "side": picture}, "state": np.zeros(3)}) == [
        "pixels.top",
        "pixels.side",
    ]
    assert pictures_in({"state": np.zeros((3, 3))}) == []


def test_a_picture_for_people_shrinks_to_its_size_and_never_grows() -> None:
    wide = np.full((40, 80, 3), (200, 100, 50), np.uint8)
    picture = decode_picture(encode_picture(wide, 40), 100)
    assert picture.shape == (20, 40, 3)
    np.testing.assert_allclose(picture[5, 5], (200, 100, 50), atol=4)
    assert decode_picture(encode_picture(wide, 100), 10).shape == (5, 10, 3)
