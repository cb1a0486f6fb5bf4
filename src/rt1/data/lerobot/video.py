"""Images of a video-mode LeRobot data set: read from an mp4 file by their time, and written to one."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from rt1.data.lerobot.schema import COPY_AGAIN, Episodes
from rt1.data.sources.video import TOLERANCE, Clock, OpenVideos, Video
from rt1.errors import DataError

if TYPE_CHECKING:
    import av

Codec = Literal["av1", "h264"]
ENCODERS = {"av1": "libsvtav1", "h264": "libx264"}
PIXEL_FORMAT = "yuv420p"
_OPTIONS = {"g": "2", "crf": "30"}
_EXTRA_OPTIONS = {"av1": {"preset": "10"}, "h264": {"bf": "0"}}
_MOST_SPAN_ERROR = 1.25
"""How far a span may differ from the length of its episode, in steps. Some recorders measure a span one image off."""
_MOST_RATE_ERROR = 0.01


class VideoImages:
    """The images of the episodes, decoded by seeking. Safe to use from several threads."""

    def __init__(self, files: Sequence[Path], starts: NDArray[np.float64], fps: float) -> None:
        """Open nothing yet.

        Args:
            files: the file of each episode.
            starts: (E,) time of the first image of each episode in its file, seconds. See :func:`starts_in_files`.
            fps: steps per second.
        """
        self._files, self._starts, self._fps = files, starts, fps
        self._open = OpenVideos()

    def read(self, episode: int, start: int, stop: int) -> list[NDArray[np.uint8]]:
        """Return steps ``start..stop-1`` as uint8 RGB (H, W, 3), 0..255. A damaged file raises ``DataError``."""
        if start == stop:
            return []
        times = (self._starts[episode] + np.arange(start, stop) / self._fps).tolist()
        path = self._files[episode]
        with self._open.borrowed(path, lambda: _video(path)) as video:
            images = video.images(times, TOLERANCE / self._fps)
        if len(images) < len(times):
            where = f"step {start + len(images)} of episode {episode} (second {times[len(images)]:.3f})"
            raise DataError(f"{path} has no image for {where}. {COPY_AGAIN}")
        return images


def starts_in_files(episodes: Episodes, fps: float) -> NDArray[np.float64]:
    """Return (E,) the time of each episode's first image on the clock of its file, seconds.

    The header of every file is read. Where a clock does not begin at 0 but the metadata count from 0, the times are
    moved. So are those of a file that holds the images of its episodes and no others, if they have another offset, as
    after a merge. Spans that overlap, end after the video, or differ from the length of their episode, and a video of
    another rate, raise :class:`DataError` with file and episode.
    """
    starts, lengths = episodes.video_starts.astype(np.float64), episodes.lengths
    members: dict[Path, list[int]] = {}
    for episode in np.argsort(starts, kind="stable").tolist():
        members.setdefault(episodes.video_files[episode], []).append(episode)
    clocks = {path: _clock(path, fps) for path in members}
    _check_spans(episodes, fps)
    for path, numbers in members.items():
        stops = starts[numbers] + lengths[numbers] / fps
        overlaps = starts[numbers][1:] < stops[:-1] - TOLERANCE / fps
        if overlaps.any():
            one, other = (numbers[int(np.argmax(overlaps)) + after] for after in (0, 1))
            raise DataError(
                f"{path}: episode {other} begins at second {starts[other]:.3f}, within episode {one}, which has "
                f"{lengths[one]} steps from second {starts[one]:.3f} on. {COPY_AGAIN}"
            )
        is_whole = clocks[path].images == lengths[numbers].sum() and bool(
            (np.abs(starts[numbers][1:] - stops[:-1]) <= TOLERANCE / fps).all()
        )
        shift = (
            clocks[path].first - starts[numbers[0]]
            if is_whole
            else _shift(path, clocks[path], numbers[0], starts[numbers[0]], fps)
        )
        end = clocks[path].first + clocks[path].images / fps
        if stops[-1] + shift > end + TOLERANCE / fps:
            raise DataError(
                f"{path} has {clocks[path].images} images and ends at second {end:.3f}, and episode {numbers[-1]} at "
                f"second {stops[-1] + shift:.3f}. {COPY_AGAIN}"
            )
        starts[numbers] += shift
    return starts


def _video(path: Path) -> Video:
    return Video(str(path), name=str(path), cure=COPY_AGAIN)


def _clock(path: Path, fps: float) -> Clock:
    """Return the times of a video. One of another rate raises :class:`DataError`."""
    with closing(_video(path)) as video:
        clock = video.clock()
    if clock.rates and not any(abs(rate / fps - 1) <= _MOST_RATE_ERROR for rate in clock.rates):
        raise DataError(
            f"{path} has {clock.rates[0]:.4g} images per second, and meta/info.json has fps {fps:g}. Set fps to the "
            "rate of the recording"
        )
    return clock


def _check_spans(episodes: Episodes, fps: float) -> None:
    starts, stops = episodes.video_starts, episodes.video_stops
    with np.errstate(over="ignore", invalid="ignore"):  # times may be anything
        errors = np.abs((stops - starts) * fps - episodes.lengths)
    wrong = ~(np.isfinite(starts) & (starts >= 0) & (errors <= _MOST_SPAN_ERROR))
    if wrong.any():
        episode = int(np.argmax(wrong))
        span = f"from second {starts[episode]:.3f} to {stops[episode]:.3f}"
        raise DataError(
            f"{episodes.video_files[episode]}: episode {episode} is said to lie {span}, and has "
            f"{episodes.lengths[episode]} steps at {fps:g} per second. Correct the times or fps in meta"
        )


def _shift(path: Path, clock: Clock, episode: int, start: float, fps: float) -> float:
    """Return what to add to the times of the metadata to get those of the file whose first episode is this one."""
    tolerance = TOLERANCE / fps
    if abs(clock.first) <= tolerance or abs(start - clock.first) <= tolerance:
        return 0.0
    if start <= tolerance:
        return clock.first
    raise DataError(
        f"{path} begins at second {clock.first:.3f}, and its first episode, {episode}, at second {start:.3f}: "
        "the times have no common clock. Encode the video again from second 0 on"
    )


def encode_video(images: Sequence[NDArray[np.uint8]], *, fps: int, codec: Codec) -> bytes:
    """Return an mp4 file of uint8 RGB (H, W, 3) images, H and W even, every second one a key frame.

    A codec that FFmpeg cannot write raises :class:`DataError`.
    """
    import av

    os.environ.setdefault("SVT_LOG", "1")  # else the AV1 encoder prints a page for every episode
    height, width, _ = images[0].shape
    sink = io.BytesIO()
    with kept_priority(), av.open(sink, "w", format="mp4") as container:
        try:
            stream: Any = container.add_stream(ENCODERS[codec], rate=fps, options={**_OPTIONS, **_EXTRA_OPTIONS[codec]})
        except av.error.FFmpegError as error:
            raise DataError(f"this FFmpeg has no {ENCODERS[codec]}. Choose another video codec") from error
        stream.width, stream.height, stream.pix_fmt = width, height, PIXEL_FORMAT
        stream.thread_count = 1  # several threads may give other bytes from run to run
        for number, image in enumerate(images):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, fps)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return sink.getvalue()


@contextmanager
def kept_priority() -> Iterator[None]:
    """Give this thread its scheduling back at the end.

    For root the AV1 encoder (SVT-AV1) makes the thread that calls it a real-time one of the highest priority, and
    leaves it so: other programs, and other threads of this one, would stand still.
    """
    if not hasattr(os, "sched_getscheduler"):  # not Linux
        yield
        return
    before = os.sched_getscheduler(0), os.sched_getparam(0)
    try:
        yield
    finally:
        if (os.sched_getscheduler(0), os.sched_getparam(0)) != before:
            os.sched_setscheduler(0, *before)


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
