"""Video-mode LeRobot sets: every step is found in the file by its time, and nothing else is taken for it."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tests.fixtures.lerobot import CAMERA, LeRobotSet, assert_right_images, edit_episodes, image_of

from rt1.data.lerobot.metadata import LeRobotSettings
from rt1.data.lerobot.reader import LeRobotSource
from rt1.data.lerobot.video import Codec, encode_video
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


@pytest.mark.skipif(not hasattr(os, "sched_getscheduler"), reason="scheduling policies are Linux's")
def test_encoding_leaves_the_thread_its_priority() -> None:
    """For root the AV1 encoder makes the thread a real-time one, which stopped everything else."""
    before = os.sched_getscheduler(0), os.sched_getparam(0)
    encode_video([np.zeros((64, 64, 3), np.uint8)] * 2, fps=3, codec="av1")
    assert (os.sched_getscheduler(0), os.sched_getparam(0)) == before


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


_HEVC = {"g": "2", "x265-params": "log-level=none"}
_FRAGMENTS = "frag_keyframe+empty_moov"


@pytest.mark.parametrize(
    "written",
    [
        LeRobotSet(lengths=(12, 9), video="libx265", options=_HEVC),
        LeRobotSet(lengths=(12, 9), video="libx265", options={**_HEVC, "g": "6"}, movflags=_FRAGMENTS),
        LeRobotSet(lengths=(12, 9), options={"g": "6", "bf": "2"}),
        LeRobotSet(lengths=(12, 9), options={"g": "6", "bf": "2"}, movflags=_FRAGMENTS),
        LeRobotSet(lengths=(12, 9), options={"g": "2", "bf": "0"}, movflags=_FRAGMENTS),
        LeRobotSet(lengths=(12, 9), options={"g": "250", "bf": "2"}),
        LeRobotSet(lengths=(12, 9), options={"g": "6", "bf": "2"}, version="v2.1", late=3.0),
        LeRobotSet(late=2.0),
    ],
    ids=["hevc", "hevc-fragments", "b-frames", "b-fragments", "fragments", "one-key-frame", "late-b-frames", "late"],
)
def test_every_step_of_any_video_has_its_own_image(tmp_path: Path, written: LeRobotSet) -> None:
    source = LeRobotSource(written.write(tmp_path / "set"))
    assert_right_images(source, written.lengths)


def test_times_on_a_clock_that_starts_late_are_taken_as_they_are(tmp_path: Path) -> None:
    folder = LeRobotSet(late=2.0, episodes_per_file=1).write(tmp_path / "set")
    for episode, length in enumerate((5, 7, 4, 6)):
        edit_episodes(folder, f"videos/{CAMERA}/from_timestamp", episode, 2 / 30)
        edit_episodes(folder, f"videos/{CAMERA}/to_timestamp", episode, (2 + length) / 30)
    assert_right_images(LeRobotSource(folder), (5, 7, 4, 6))


def test_times_that_go_on_from_the_file_before_are_counted_from_the_start_of_their_own(tmp_path: Path) -> None:
    folder = LeRobotSet().write(tmp_path / "set")
    for episode, start, stop in ((2, 12, 16), (3, 16, 22)):  # the second file, after a merge
        edit_episodes(folder, f"videos/{CAMERA}/from_timestamp", episode, start / 30)
        edit_episodes(folder, f"videos/{CAMERA}/to_timestamp", episode, stop / 30)
    assert_right_images(LeRobotSource(folder), (5, 7, 4, 6))


@pytest.mark.parametrize(
    ("start", "message"),
    [
        (3 / 30, r"file-000\.mp4: episode 1 .*0\.100 to 0\.400.*7 steps"),
        (4 / 30, r"file-000\.mp4: episode 1 begins at second 0\.133, within episode 0"),
        (6 / 30, r"file-000\.mp4 has 12 images.*episode 1"),
        (float("nan"), "episode 1 .*nan"),
        (float("inf"), "episode 1 .*inf"),
        (-1 / 30, "episode 1 .*-0.033"),
    ],
)
def test_a_time_that_cannot_be_is_refused_at_opening(tmp_path: Path, start: float, message: str) -> None:
    folder = LeRobotSet().write(tmp_path / "set")
    edit_episodes(folder, f"videos/{CAMERA}/from_timestamp", 1, start)
    with pytest.raises(DataError, match=message):
        LeRobotSource(folder)


def test_a_clock_without_relation_to_the_times_is_refused(tmp_path: Path) -> None:
    folder = LeRobotSet(late=2.0).write(tmp_path / "set")
    for episode, (start, stop) in enumerate([(1, 6), (7, 14)]):
        edit_episodes(folder, f"videos/{CAMERA}/from_timestamp", episode, start / 30)
        edit_episodes(folder, f"videos/{CAMERA}/to_timestamp", episode, stop / 30)
    with pytest.raises(DataError, match=r"begins at second 0\.06.*episode, 0, at second 0\.033"):
        LeRobotSource(folder)


@pytest.mark.parametrize("version", ["v2.1", "v3.0"])
def test_a_rate_of_29_where_the_video_has_30_is_said(tmp_path: Path, version: str) -> None:
    folder = LeRobotSet(version=version, info={"fps": 29}).write(tmp_path / "set")  # type: ignore[arg-type]
    with pytest.raises(DataError, match=r"\.mp4 has 30 images per second.*fps 29"):
        LeRobotSource(folder)


def test_a_rate_that_the_timestamps_do_not_have_is_said(tmp_path: Path) -> None:
    folder = LeRobotSet(lengths=(40, 60), video=None, info={"fps": 29}).write(tmp_path / "set")
    with pytest.raises(DataError, match=r"episode 0 have 30 steps per second.*fps 29"):
        LeRobotSource(folder)


def test_a_video_that_lost_an_image_has_no_other_in_its_place(tmp_path: Path) -> None:
    written = LeRobotSet(lengths=(6, 6))
    folder = written.write(tmp_path / "set")
    times = [step for step in range(12) if step != 3]
    written.write_video(
        folder / VIDEO.replace("image/", "top/"),
        [image_of(step // 6, step % 6) for step in (*times, 5)],
        [*times, 12],
    )
    source = LeRobotSource(folder)
    assert len(source.images(1, 0, 6)) == 6
    with pytest.raises(DataError, match=r"file-000\.mp4 has no image for step 3 of episode 0"):
        source.images(0, 0, 6)
