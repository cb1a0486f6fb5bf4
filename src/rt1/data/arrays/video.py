"""Images of an episode stored as one video, read by number."""

from __future__ import annotations

import io
from contextlib import closing

import numpy as np
from numpy.typing import NDArray

from rt1.common.border import reading
from rt1.data.sources.video import TOLERANCE, Video
from rt1.errors import DataError

_CURE = "store the video again, or leave the episode out"


def video_images(where: str, value: object, count: int, start: int, stop: int) -> list[NDArray[np.uint8]]:
    """Return images ``start..stop-1`` of a video of ``count`` images, each uint8 RGB (H, W, 3), 0..255.

    The video is opened at every call and decoded from the last key frame before ``start``.

    Args:
        where: the episode, for errors.
        value: value of ``datasets.Video(decode=False)``: ``{"bytes": ..., "path": ...}``, one of them set.
        count: number of images that it must hold.
        start: first image.
        stop: one past the last.

    Raises:
        DataError: a missing or damaged file, or another number of images.
    """
    content = value if isinstance(value, dict) else {}
    data, path = content.get("bytes"), content.get("path")
    if not data and not path:
        raise DataError(f"{where}: the video is {value!r}; it must be a datasets.Video with bytes or a path")
    name = where if data else f"{where}: {path}"
    with (
        reading(where, cure=_CURE),
        closing(Video(io.BytesIO(data) if data else str(path), name=name, cure=_CURE)) as video,
    ):
        times = video.times()
        if len(times) != count:
            raise DataError(f"{where}: the video has {len(times)} images for {count} actions; one is needed for each")
        step = (times[-1] - times[0]) / max(1, count - 1) or 1.0
        images = video.images(times[start:stop], TOLERANCE * step)
    if len(images) < stop - start:
        raise DataError(f"{where}: {stop - start - len(images)} images of the video do not decode; {_CURE}")
    return images
