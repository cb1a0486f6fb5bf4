"""Images of a video file by their time, for every data format that stores videos."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from rt1.common.border import check_no_pointer
from rt1.errors import DataError

if TYPE_CHECKING:
    import av

TOLERANCE = 0.25
"""Most that an image may be off its time, in steps."""
_IDLE_FILES = 8
_COLOR = (30, 200, 40)
_BT709_COLOR = (147, 75, 60)
"""``_COLOR`` as Y, U and V of BT.709, limited range."""
_BT709 = 1
_COLOR_TOLERANCE = 4


@dataclass(frozen=True, kw_only=True)
class Clock:
    """The times of a video."""

    first: float
    """Time of the first image, seconds."""
    images: int
    """Number of images."""
    rates: tuple[float, ...]
    """Images per second: the average, and the rate that all times are multiples of."""


class Video:
    """An open video file. Only one thread at a time may use it."""

    def __init__(self, file: str | IO[bytes], *, name: str, cure: str) -> None:
        """Open a video for reading. Any method may raise :class:`DataError`: the file is missing or damaged.

        Args:
            file: a path, or an open file.
            name: name of the file or of its episode, for errors.
            cure: what the user can do, the end of an error's line.
        """
        import av

        check_colors()
        self.name, self._cure = name, cure
        if isinstance(file, str):
            check_no_pointer(Path(file))
        with self._decoding():
            self._container = av.open(file, "r", metadata_errors="ignore")
        streams = self._container.streams.video
        # A stream whose codec is unknown has no context, whatever the types say.
        base = streams[0].time_base if streams and getattr(streams[0], "codec_context", None) is not None else None
        if not base:
            self.close()
            raise DataError(f"{name}: there is no video that can be decoded. {cure}")
        self._stream = streams[0]
        self._stream.codec_context.thread_count = 1  # the loader's threads already keep the cores busy
        self._tick = float(base)
        self._reformatter = av.video.reformatter.VideoReformatter()  # one for all images: it prepares its tables once
        self._earlier = 0.0
        self._times: list[float] | None = None

    def close(self) -> None:
        self._container.close()

    def clock(self) -> Clock:
        """Return the times from the header. Without the number of images in it, the whole file is read."""
        stream = self._stream
        rates = tuple(float(rate) for rate in (stream.average_rate, stream.base_rate) if rate)
        if stream.frames and stream.start_time is not None:
            return Clock(first=stream.start_time * self._tick, images=stream.frames, rates=rates)
        times = self.times()
        if not times:
            raise DataError(f"{self.name}: the video has no images. {self._cure}")
        return Clock(first=times[0], images=len(times), rates=rates)

    def times(self) -> list[float]:
        """Return the time of each image in seconds, ascending, from one pass over the file without decoding."""
        if self._times is None:
            with self._decoding():
                self._container.seek(0, stream=self._stream)
                packets = self._container.demux(self._stream)
                self._times = sorted(packet.pts * self._tick for packet in packets if packet.pts is not None)
        return self._times

    def images(self, times: Sequence[float], tolerance: float) -> list[NDArray[np.uint8]]:
        """Return the images at ascending times, uint8 RGB (H, W, 3). Fewer where the file lacks the next one.

        Decoding begins at the key frame before the first time. Where images before a key frame need the key frame
        before that (an open group of pictures, B-frames), decoding begins earlier and earlier.

        Args:
            times: seconds, ascending.
            tolerance: how far an image may be off, seconds.
        """
        earlier, step = self._earlier, 4 * tolerance
        while times:
            target = times[0] - earlier
            images = self._decode(round(target / self._tick), times, tolerance)
            if len(images) == len(times):
                self._earlier = earlier
                return images
            if target < 0:  # before the first image: at 0, two key frames of one decoding time hide the first
                return images
            earlier = max(step, 2 * earlier)
        return []

    def _decode(self, tick: int, times: Sequence[float], tolerance: float) -> list[NDArray[np.uint8]]:
        """Return the images at these times of those that follow the key frame before a tick, up to the first gap."""
        images: list[NDArray[np.uint8]] = []
        with self._decoding():
            self._container.seek(tick, stream=self._stream, backward=True)
            for frame in self._container.decode(self._stream):
                if frame.pts is None:
                    continue
                time = frame.pts * self._tick
                if time > times[len(images)] + tolerance:
                    break
                if time >= times[len(images)] - tolerance and not frame.is_corrupt:
                    images.append(self._rgb(frame))
                    if len(images) == len(times):
                        break
        return images

    @contextmanager
    def _decoding(self) -> Iterator[None]:
        """Turn errors of FFmpeg into :class:`DataError`."""
        import av

        try:
            yield
        except FileNotFoundError as error:
            raise DataError(f"{self.name}: {error.strerror}. {self._cure}") from error
        except av.FFmpegError as error:
            raise DataError(
                f"{self.name}: the video is damaged or truncated ({error.strerror}). {self._cure}"
            ) from error

    def _rgb(self, frame: av.VideoFrame) -> NDArray[np.uint8]:
        import av

        try:
            rgb = self._reformatter.reformat(frame, format="rgb24")
        except av.FFmpegError as error:
            colors = f"{frame.format.name} images of color space {frame.colorspace}"
            raise DataError(
                f"{self.name} has {colors}, which FFmpeg cannot convert to RGB ({error.strerror}). Encode it again as "
                "yuv420p of BT.709"
            ) from error
        return rgb.to_ndarray().astype(np.uint8, copy=False)


class OpenVideos:
    """Videos that stay open for later requests, since opening one reads its whole table of images. Thread-safe."""

    def __init__(self) -> None:
        self._idle: list[tuple[Hashable, Video]] = []
        self._lock = threading.Lock()

    @contextmanager
    def borrowed(self, key: Hashable, open_video: Callable[[], Video]) -> Iterator[Video]:
        """Yield the video of a key for use by this thread only. One that fails is closed."""
        with self._lock:
            match = next((idle for idle in self._idle if idle[0] == key), None)
            if match is not None:
                self._idle.remove(match)
        with ExitStack() as on_error:
            video = open_video() if match is None else match[1]
            on_error.callback(video.close)
            yield video
            on_error.pop_all()
        with self._lock:
            self._idle.append((key, video))
            old, self._idle = self._idle[:-_IDLE_FILES], self._idle[-_IDLE_FILES:]
        for _, surplus in old:
            surplus.close()


@functools.cache
def check_colors() -> None:
    """Raise :class:`DataError` if the installed PyAV reads the colors of BT.709 as those of BT.601."""
    import av

    frame = av.VideoFrame(16, 16, "yuv420p")
    for plane, value in zip(frame.planes, _BT709_COLOR, strict=True):
        plane.update(bytes([value]) * plane.buffer_size)
    frame.colorspace = _BT709
    color = frame.to_ndarray(format="rgb24")[8, 8].astype(int)
    if np.abs(color - _COLOR).max() > _COLOR_TOLERANCE:
        raise DataError(
            f"av {av.__version__} reads the color {_COLOR} of a BT.709 video as {tuple(color.tolist())}. Install av 17 "
            "or newer"
        )
