"""The images of any source as RGB arrays."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from rt1.data.sources.base import EpisodeSource, optional_members
from rt1.data.sources.images import decode_image
from rt1.errors import DataError


def decoded_images(source: EpisodeSource, episode: int, start: int, stop: int) -> list[NDArray[np.uint8]]:
    """Return the images of steps ``start..stop-1``, uint8 RGB (H, W, 3). See :func:`each_image`."""
    return list(each_image(source, episode, start, stop))


def each_image(source: EpisodeSource, episode: int, start: int, stop: int) -> Iterator[NDArray[np.uint8]]:
    """Yield the images of steps ``start..stop-1``, uint8 RGB (H, W, 3), decoded one by one.

    An image that cannot be read or decoded raises :class:`DataError` with source, episode and step.
    """
    members = optional_members(source)
    read = members.images if callable(members.images) else source.encoded_images
    where = f"{source.name}, episode {episode}"
    try:
        images: Sequence[Any] = read(episode, start, stop)
    except DataError as error:
        raise DataError(f"{where}, steps {start}..{stop - 1}: {error}") from error
    if len(images) != stop - start:
        gave = f"the source gave {len(images)} images for {stop - start} steps"
        raise DataError(f"{where}, steps {start}..{stop - 1}: {gave}. It must give one per step")
    for step, image in enumerate(images, start):
        try:
            rgb = decode_image(image) if isinstance(image, bytes) else _checked(image)
        except DataError as error:
            raise DataError(f"{where}, step {step}: {error}") from error
        swap = members.bgr and isinstance(image, bytes)
        yield np.asarray(cv2.cvtColor(rgb, cv2.COLOR_BGR2RGB), np.uint8) if swap else rgb


def _checked(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise DataError(f"images() gave {image.dtype} {image.shape}. It must give uint8 RGB (H, W, 3)")
    return image
