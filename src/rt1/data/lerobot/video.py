"""Images of a video-mode LeRobot data set: read from an mp4 file by their time, and written to one."""

from __future__ import annotations

import io
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from rt1.data.lerobot.schema import COPY_AGAIN, Episodes, reading
from rt1.errors import DataError

if TYPE_CHECKING:
    import av

Codec = Literal["av1", "h264"]
ENCODERS = {"av1": "libsvtav1", "h264": "libx264"}
PIXEL_FORMAT = "yuv420p"
_OPTIONS = {"g": "2", "crf": "30"}
_EXTRA_OPTIONS = {"av1": {"preset": "10"}, "h264": {"bf": "0"}}
_IDLE_FILES = 8  # open files for later requests, since opening one reads its whole table of images
_TOLERANCE = 0.25  # of the time between two steps


class VideoImages:
    """The images of the episodes, decoded by seeking. Safe to use from several threads."""

    def __init__(self, episodes: Episodes, fps: float) -> None:
        self._files, self._starts, self._fps = episodes.video_files, episodes.video_starts, fps
        self._idle: list[av.container.InputContainer] = []
        self._lock = threading.Lock()

    def read(self, episode: int, start: int, stop: int) -> list[NDArray[np.uint8]]:
        """Return steps ``start..stop-1`` as uint8 RGB (H, W, 3), 0..255. A damaged file raises ``DataError``."""
        if start == stop:
            return []
        times = self._starts[episode] + np.arange(start, stop) / self._fps
        with self._borrowed(self._files[episode]) as container:
            images = _images_at(container, times, _TOLERANCE / self._fps)
        if len(images) < len(times):
            where = f"step {start + len(images)} of episode {episode} (second {times[len(images)]:.3f})"
            raise DataError(f"{self._files[episode]} has no image for {where}; {COPY_AGAIN}")
        return images

    @contextmanager
    def _borrowed(self, path: Path) -> Iterator[av.container.InputContainer]:
        """Yield the open file for use by this thread only. One that fails is closed."""
        import av

        with self._lock:
            container = next((idle for idle in self._idle if idle.name == str(path)), None)
            if container is not None:
                self._idle.remove(container)
        with reading(path), ExitStack() as on_error:
            try:
                container = container or _open_video(path)
                on_error.callback(container.close)
                yield container
            except av.FFmpegError as error:
                raise DataError(f"{path} is damaged or truncated ({error.strerror}); {COPY_AGAIN}") from error
            on_error.pop_all()
        with self._lock:
            self._idle.append(container)
            old, self._idle = self._idle[:-_IDLE_FILES], self._idle[-_IDLE_FILES:]
        for surplus in old:
            surplus.close()


def _open_video(path: Path) -> av.container.InputContainer:
    import av

    container = av.open(str(path), metadata_errors="ignore")
    streams = container.streams.video
    # A stream whose codec is unknown has no context, whatever the types say.
    if not streams or getattr(streams[0], "codec_context", None) is None:
        container.close()
        raise DataError(f"{path} holds no video that can be decoded; {COPY_AGAIN}")
    streams[0].codec_context.thread_count = 1  # the loader's threads already keep the cores busy
    return container


def _images_at(
    container: av.container.InputContainer, times: NDArray[np.float64], tolerance: float
) -> list[NDArray[np.uint8]]:
    """Return the images at ascending times, seconds. Fewer where the file lacks the next one."""
    stream = container.streams.video[0]
    base = stream.time_base
    assert base is not None
    container.seek(max(0, int(times[0] / float(base))), stream=stream, backward=True)
    images: list[NDArray[np.uint8]] = []
    for frame in container.decode(stream):
        shown = float((frame.pts or 0) * base)
        if shown > times[len(images)] + tolerance:
            break
        if shown >= times[len(images)] - tolerance:
            if frame.is_corrupt:
                raise DataError(f"{container.name}: the image at second {shown:.3f} is damaged; {COPY_AGAIN}")
            images.append(frame.to_ndarray(format="rgb24").astype(np.uint8, copy=False))
        if len(images) == len(times):
            break
    return images


def encode_video(images: Sequence[NDArray[np.uint8]], *, fps: int, codec: Codec) -> bytes:
    """Return an mp4 file of uint8 RGB (H, W, 3) images, H and W even, every second one a key frame.

    A codec that FFmpeg cannot write raises :class:`DataError`.
    """
    import av

    os.environ.setdefault("SVT_LOG", "1")  # else the AV1 encoder prints a page for every episode
    height, width, _ = images[0].shape
    sink = io.BytesIO()
    with av.open(sink, "w", format="mp4") as container:
        try:
            stream: Any = container.add_stream(ENCODERS[codec], rate=fps, options={**_OPTIONS, **_EXTRA_OPTIONS[codec]})
        except av.error.FFmpegError as error:
            raise DataError(f"this FFmpeg has no {ENCODERS[codec]}; choose another video codec") from error
        stream.width, stream.height, stream.pix_fmt = width, height, PIXEL_FORMAT
        stream.thread_count = 1  # several threads may give other bytes from run to run
        for number, image in enumerate(images):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, fps)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return sink.getvalue()


def join_videos(segments: Sequence[tuple[bytes, int]], path: Path, *, fps: int) -> None:
    """Concatenate mp4 files of one codec and size, each with its number of images."""
    import av

    with av.open(str(path), "w", format="mp4") as out:
        stream: av.VideoStream | None = None
        done = 0
        for data, images in segments:
            with av.open(io.BytesIO(data), "r") as segment:
                source = segment.streams.video[0]
                stream = stream or out.add_stream_from_template(source, opaque=True)  # needs no encoder
                for packet in segment.demux(source):
                    if packet.pts is None or packet.dts is None:
                        continue  # the mark of the end
                    ticks = round(Fraction(done, fps) / (source.time_base or Fraction(1, fps)))
                    packet.pts, packet.dts = packet.pts + ticks, packet.dts + ticks
                    packet.stream = stream
                    out.mux(packet)
            done += images
