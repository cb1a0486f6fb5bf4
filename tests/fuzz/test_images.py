"""Damaged JPEG and PNG files through the decoder of all data sets."""

from __future__ import annotations

import random

import cv2
import numpy as np
import pytest
from tests.fuzz.conftest import Fuzz
from tests.fuzz.mutate import mutate

from rt1.data.sources.images import decode_image, encode_jpeg

IMAGE = np.random.default_rng(0).integers(0, 256, (24, 40, 3), dtype=np.uint8)


def _png(*options: int) -> bytes:
    return cv2.imencode(".png", IMAGE, options)[1].tobytes()


def _progressive() -> bytes:
    return cv2.imencode(".jpg", IMAGE, (cv2.IMWRITE_JPEG_PROGRESSIVE, 1))[1].tobytes()


@pytest.mark.parametrize(
    "original", [encode_jpeg(IMAGE), _progressive(), _png()], ids=["jpeg", "progressive jpeg", "png"]
)
def test_a_damaged_image_gives_pixels_or_one_line(fuzz: Fuzz, original: bytes) -> None:
    is_png = original.startswith(b"\x89PNG")

    def check(rng: random.Random) -> None:
        pixels = decode_image(mutate(original, rng))
        assert pixels.dtype == np.uint8
        assert pixels.ndim == 3
        assert pixels.shape[2] == 3
        assert not is_png or np.array_equal(pixels, IMAGE[..., ::-1])  # it has checksums

    fuzz.check_examples(check, names="of")
