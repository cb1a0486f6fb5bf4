"""Images however a source holds them: encoded, decoded already, blue first."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from rt1.data.sources.decoding import decoded_images
from rt1.data.sources.images import decode_image
from rt1.errors import DataError

MakeSource = Callable[..., Any]


def test_encoded_images_are_decoded(make_source: MakeSource) -> None:
    source = make_source(3)
    np.testing.assert_array_equal(decoded_images(source, 0, 1, 3), [decode_image(d) for d in source.images[0][1:]])


def test_decoded_images_are_taken_where_a_source_has_them(make_source: MakeSource) -> None:
    source, stored = make_source(3), np.arange(2 * 4 * 4 * 3, dtype=np.uint8).reshape(2, 4, 4, 3)
    source.images = lambda *_: list(stored)
    source.bgr = True  # of encoded images only
    np.testing.assert_array_equal(decoded_images(source, 0, 1, 3), stored)


def test_blue_first_images_are_turned_round_in_memory_of_their_own(make_source: MakeSource) -> None:
    source = make_source(3)
    source.bgr = True
    image = decoded_images(source, 0, 0, 1)[0]
    np.testing.assert_array_equal(image, decode_image(source.images[0][0])[..., ::-1])
    assert image.flags.c_contiguous


def test_an_image_that_does_not_decode_is_named(make_source: MakeSource) -> None:
    source = make_source(3)
    source.images[0][2] = b"nothing"
    with pytest.raises(DataError, match=r"^memory, episode 0, step 2: .*7 bytes"):
        decoded_images(source, 0, 1, 3)


def test_an_error_of_the_source_gets_its_place(make_source: MakeSource) -> None:
    def read(*_: int) -> list[Any]:
        raise DataError("the video ends early")

    source = make_source(3)
    source.images = read
    with pytest.raises(DataError, match=r"^memory, episode 0, steps 1\.\.2: .*ends early"):
        decoded_images(source, 0, 1, 3)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((4, 4, 3), np.float32), r"images\(\) gave float32 \(4, 4, 3\)\. It must give uint8 RGB"),
        (np.zeros((4, 4), np.uint8), r"images\(\) gave uint8 \(4, 4\)"),
    ],
)
def test_images_of_another_kind_are_refused(image: Any, message: str, make_source: MakeSource) -> None:
    source = make_source(3)
    source.images = lambda *_: [image] * 2
    with pytest.raises(DataError, match=message):
        decoded_images(source, 0, 0, 2)


def test_another_number_of_images_is_refused(make_source: MakeSource) -> None:
    source = make_source(3)
    source.images[0] = source.images[0][:2]
    with pytest.raises(DataError, match="the source gave 1 images for 2 steps"):
        decoded_images(source, 0, 1, 3)
