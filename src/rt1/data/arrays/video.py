"""Images of an episode stored as one video, read by number."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from rt1.common.border import reading
from rt1.errors import DataError

if TYPE_CHECKING:
    import av

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
    with reading(where, cure=_CURE), _opened(where, value) as container:
        stream = container.streams.video[0]
        shown = sorted(packet.pts for packet in container.demux(stream) if packet.pts is not None)
        if len(shown) != count:
            raise DataError(f"{where}: the video has {len(shown)} images for {count} actions; one is needed for each")
        container.seek(shown[start], stream=stream, backward=True)
        times = set(shown[start:stop])
        images = {}
        for frame in container.decode(stream):
            if frame.pts in times and not frame.is_corrupt:
                images[frame.pts] = frame.to_ndarray(format="rgb24").astype(np.uint8, copy=False)
            if len(images) == len(times):
                break
        if len(images) < stop - start:
            raise DataError(f"{where}: {stop - start - len(images)} images of the video do not decode; {_CURE}")
        return [images[time] for time in shown[start:stop]]


@contextmanager
def _opened(where: str, value: object) -> Iterator[av.container.InputContainer]:
    import av

    content = value if isinstance(value, dict) else {}
    data, path = content.get("bytes"), content.get("path")
    if not data and not path:
        raise DataError(f"{where}: the video is {value!r}; it must be a datasets.Video with bytes or a path")
    try:
        with av.open(io.BytesIO(data) if data else str(path), "r", metadata_errors="ignore") as container:
            streams = container.streams.video
            if not streams or getattr(streams[0], "codec_context", None) is None:
                raise DataError(f"{where}: there is no video that can be decoded; {_CURE}")
            streams[0].codec_context.thread_count = 1  # the loader's threads already keep the cores busy
            yield container
    except FileNotFoundError as error:
        raise DataError(f"{where}: {path}: {error.strerror}; the video is kept there") from error
    except av.FFmpegError as error:
        raise DataError(f"{where}: the video is damaged or truncated ({error.strerror}); {_CURE}") from error
