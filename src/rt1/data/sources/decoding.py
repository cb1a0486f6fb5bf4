"""The images of any source as RGB arrays."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from rt1.data.sources.base import EpisodeSource, optional_members
from rt1.data.sources.images import decode_image
from rt1.errors import DataError


def decoded_images(source: EpisodeSource, episode: int, start: int, stop: int) -> list[NDArray[np.uint8]]:
    """Return the images of steps ``start..stop-1``, uint8 RGB (H, W, 3); see :func:`each_image`."""
    return list(each_image(source, episode, start, stop))


def each_image(source: EpisodeSource, episode: int, start: int, stop: int) -> Iterator[NDArray[np.uint8]]:
    """Yield the images of steps ``start..stop-1``, uint8 RGB (H, W, 3), decoded one by one.

    An image that cannot be read or decoded raises :class:`DataError` with source, episode and step.
    """
    members = optional_members(source)
    encoded: list[bytes] = []
    try:
        if callable(members.images):
            yield from _checked(members.images(episode, start, stop), stop - start)
        else:
            encoded = source.encoded_images(episode, start, stop)
            _check_count(len(encoded), stop - start)
    except DataError as error:
        raise DataError(f"{source.name}, episode {episode}, steps {start}..{stop - 1}: {error}") from error
    for step, data in enumerate(encoded, start):
        try:
            image = decode_image(data)
        except DataError as error:
            raise DataError(f"{source.name}, episode {episode}, step {step}: {error}") from error
        yield np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), np.uint8) if members.bgr else image


def _checked(images: Sequence[NDArray[np.uint8]], steps: int) -> list[NDArray[np.uint8]]:
    _check_count(len(images), steps)
    for image in images:
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise DataError(f"images() gave {image.dtype} {image.shape}; it must give uint8 RGB (H, W, 3)")
    return list(images)


def _check_count(images: int, steps: int) -> None:
    if images != steps:
        raise DataError(f"the source gave {images} images for {steps} steps; it must give one per step")
