"""Colors of videos: the color space and range that a file names decide."""

from __future__ import annotations

import io
from fractions import Fraction

import numpy as np
import pytest

from rt1.data.sources import video
from rt1.data.sources.video import Video
from rt1.errors import DataError

av = pytest.importorskip("av", reason="videos need av: the extra lerobot")

COLOR = (30, 200, 40)
BT709, BT601, YCGCO = 1, 5, 8
LIMITED, FULL = 1, 2
WEIGHTS = {BT709: (0.2126, 0.0722), BT601: (0.299, 0.114)}


def _planes(space: int, color_range: int) -> list[int]:
    """Return Y, U and V of the color."""
    red, green, blue = (value / 255 for value in COLOR)
    of_red, of_blue = WEIGHTS.get(space, WEIGHTS[BT601])
    luma = of_red * red + (1 - of_red - of_blue) * green + of_blue * blue
    chroma = (blue - luma) / (2 - 2 * of_blue), (red - luma) / (2 - 2 * of_red)
    offset, luma_range, chroma_range = (16, 219, 224) if color_range == LIMITED else (0, 255, 255)
    return [round(offset + luma_range * luma), *(round(128 + chroma_range * value) for value in chroma)]


def _video(space: int, color_range: int) -> io.BytesIO:
    sink = io.BytesIO()
    with av.open(sink, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=5, options={"crf": "1"})
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        stream.codec_context.colorspace, stream.codec_context.color_range = space, color_range
        for number in range(3):
            frame = av.VideoFrame(64, 64, "yuv420p")
            for plane, value in zip(frame.planes, _planes(space, color_range), strict=True):
                plane.update(bytes([value]) * plane.buffer_size)
            frame.colorspace, frame.color_range = space, color_range
            frame.pts, frame.time_base = number, Fraction(1, 5)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return io.BytesIO(sink.getvalue())


@pytest.mark.parametrize("space", [BT709, BT601])
@pytest.mark.parametrize("color_range", [LIMITED, FULL])
def test_colors_come_back_in_any_color_space_and_range(space: int, color_range: int) -> None:
    images = Video(_video(space, color_range), name="here", cure="").images([0.2, 0.3], 0.05)
    assert len(images) == 1  # none at second 0.3
    assert np.abs(images[0][32, 32].astype(int) - COLOR).max() <= 2


def test_the_first_image_is_read_where_two_key_frames_have_one_decoding_time() -> None:
    """lerobot writes such files where the first episode has one step."""
    sink = io.BytesIO()
    with av.open(sink, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=5, options={"g": "1", "bf": "0"})
        stream.width = stream.height = 64
        stream.codec_context.time_base = Fraction(1, 10240)
        frame = av.VideoFrame(64, 64, "yuv420p")
        packets = []
        for number in range(3):
            frame.pts, frame.time_base = 2048 * number, Fraction(1, 10240)
            packets += stream.encode(frame)
        for number, packet in enumerate([*packets, *stream.encode(None)]):
            packet.dts = (0, 1, 2048)[number]
            container.mux(packet)
    data = bytearray(sink.getvalue())
    first_difference = data.index(b"stts") + 16
    assert data[first_difference : first_difference + 4] == (1).to_bytes(4)
    data[first_difference : first_difference + 4] = bytes(4)
    video = Video(io.BytesIO(data), name="here", cure="")
    assert [len(video.images([step / 5], 0.05)) for step in range(3)] == [1, 1, 1]


def test_a_color_space_that_ffmpeg_cannot_convert_is_refused() -> None:
    with pytest.raises(DataError, match=r"here .*color space 8"):
        Video(_video(YCGCO, LIMITED), name="here", cure="").images([0.0], 0.05)


def test_a_pyav_with_wrong_colors_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(video, "_COLOR", (43, 227, 45))  # as av 16 reads it
    video.check_colors.cache_clear()
    with pytest.raises(DataError, match="Install av 17"):
        Video(_video(BT709, LIMITED), name="here", cure="")


def test_the_times_of_a_video_are_told() -> None:
    clip = Video(_video(BT709, LIMITED), name="here", cure="")
    assert clip.times() == pytest.approx([0.0, 0.2, 0.4])
    assert (clip.clock().first, clip.clock().images) == (0.0, 3)
    assert clip.images([], 0.05) == []
