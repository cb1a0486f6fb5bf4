"""Video-mode LeRobot sets: every step is found in the file by its time, and nothing else is taken for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rt1.data.lerobot.metadata import LeRobotSettings
from rt1.data.lerobot.reader import LeRobotSource
from rt1.data.lerobot.video import Codec
from rt1.data.lerobot.writer import LeRobotWriter
from rt1.data.rlds.writer import RecordedEpisode, RecordingSettings
from rt1.data.sources.images import decode_image, encode_jpeg
from rt1.errors import DataError
from rt1.testing import check_source

pytest.importorskip("pyarrow", reason="LeRobot sets need pyarrow: the extra lerobot")
pytest.importorskip("av", reason="videos need av: the extra lerobot")

VIDEO = "videos/observation.images.image/chunk-000/file-000.mp4"


def _grey(episode: int, step: int) -> int:
    return 20 + 40 * episode + 7 * step  # no two steps alike


@pytest.fixture
def write(
    tmp_path: Path, settings: RecordingSettings, episodes: list[RecordedEpisode]
) -> Callable[[Codec], LeRobotSource]:
    def _write(codec: Codec) -> LeRobotSource:
        recording = replace(settings, image_size=(64, 64), episodes_per_shard=3)

        def read(number: int) -> RecordedEpisode:
            images = [np.full((64, 64, 3), _grey(number, step), np.uint8) for step in range(number + 1)]
            return replace(episodes[number], images=[encode_jpeg(image) for image in images])

        LeRobotWriter(tmp_path / "set", LeRobotSettings(recording=recording, fps=3, video=codec)).write(read)
        return LeRobotSource(tmp_path / "set")

    return _write


@pytest.mark.parametrize("codec", ["h264", "av1"])
def test_each_step_has_its_own_image(write: Callable[[Codec], LeRobotSource], codec: Codec) -> None:
    source = write(codec)
    check_source(source)
    for episode in reversed(range(5)):
        for start in range(episode + 1):
            images = source.images(episode, start, episode + 1)
            expected = [_grey(episode, step) for step in range(start, episode + 1)]
            assert [image.shape for image in images] == [(64, 64, 3)] * len(expected)
            assert np.abs(np.array([image.mean() for image in images]) - expected).max() < 3


def test_encoded_images_are_the_decoded_ones_unchanged(write: Callable[[Codec], LeRobotSource]) -> None:
    source = write("h264")
    encoded = source.encoded_images(4, 1, 4)
    assert all(data.startswith(b"\x89PNG") for data in encoded)
    assert np.array_equal([decode_image(data) for data in encoded], source.images(4, 1, 4))


def test_missing_and_damaged_videos_are_refused(write: Callable[[Codec], LeRobotSource]) -> None:
    folder = write("h264").folder
    path = folder / VIDEO
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"file-000\.mp4.* damaged"):
        LeRobotSource(folder)
    path.unlink()
    with pytest.raises(DataError, match=r"file-000.mp4 is missing"):
        LeRobotSource(folder)


def test_a_video_that_ends_too_early_is_refused(write: Callable[[Codec], LeRobotSource]) -> None:
    folder = write("h264").folder
    shorter = folder / VIDEO.replace("file-000", "file-001")
    longer = (folder / VIDEO).read_bytes()
    shorter.write_bytes(longer)  # 6 images in place of the 9 of the episodes 3 and 4
    with pytest.raises(DataError, match=r"file-001\.mp4 has 6 images and ends at second 2.*episode 4 at second 3"):
        LeRobotSource(folder)
