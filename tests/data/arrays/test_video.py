"""Episodes kept as videos in a Hugging Face data set: every step its own image, and bad videos named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.fixtures.lerobot import LeRobotSet, image_of

from rt1.data.arrays.huggingface import HuggingFaceLayout, HuggingFaceSource
from rt1.data.arrays.video import video_images
from rt1.data.lerobot.video import encode_video
from rt1.errors import DataError
from rt1.testing import check_source

datasets = pytest.importorskip("datasets", reason="Hugging Face data sets need datasets")
pytest.importorskip("av", reason="videos need av: the extra lerobot")

LENGTHS = (3, 7)


def _grey(episode: int, step: int) -> int:
    return 30 + 60 * episode + 20 * step


def _videos() -> list[bytes]:
    return [
        encode_video([np.full((32, 48, 3), _grey(e, s), np.uint8) for s in range(length)], fps=5, codec="h264")
        for e, length in enumerate(LENGTHS)
    ]


def _source(videos: list[dict[str, Any]], lengths: tuple[int, ...] = LENGTHS) -> HuggingFaceSource:
    actions = [[[0.1 * step, 1.0] for step in range(length)] for length in lengths]
    table = {"video": videos, "action": actions, "instruction": ["push", "pull"]}
    dataset = datasets.Dataset.from_dict(table).cast_column("video", datasets.Video())
    return HuggingFaceSource(dataset, layout=HuggingFaceLayout(image_key="video", episode_key=None))


@pytest.mark.parametrize("kept_as", ["bytes", "path"])
def test_every_step_has_its_own_image_of_the_video(tmp_path: Path, kept_as: str) -> None:
    cells: list[dict[str, Any]] = []
    for number, video in enumerate(_videos()):
        (tmp_path / f"{number}.mp4").write_bytes(video)
        cells.append({"bytes": video if kept_as == "bytes" else None, "path": str(tmp_path / f"{number}.mp4")})
    source = _source(cells)
    check_source(source)
    assert source.lengths.tolist() == list(LENGTHS)
    for episode, length in reversed(list(enumerate(LENGTHS))):
        for start in range(length):
            images = source.images(episode, start, length)
            assert {image.shape for image in images} == {(32, 48, 3)}
            expected = [_grey(episode, step) for step in range(start, length)]
            assert np.abs(np.array([image.mean() for image in images]) - expected).max() < 3


def test_a_video_with_another_number_of_images_than_actions_is_refused() -> None:
    source = _source([{"bytes": video, "path": None} for video in _videos()], lengths=(3, 6))
    with pytest.raises(DataError, match=r"row 1.*7 images.*6 actions"):
        source.images(1, 0, 1)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"bytes": b"no video at all", "path": None}, "here: the video is damaged or truncated"),
        ({"bytes": None, "path": "/nowhere/a.mp4"}, r"here: /nowhere/a\.mp4: No such file or directory"),
        ({"bytes": None, "path": None}, "it must be a datasets.Video with bytes or a path"),
        (None, "here: the video is None"),
    ],
)
def test_what_is_no_video_is_named_with_its_episode(value: object, message: str) -> None:
    with pytest.raises(DataError, match=message):
        video_images("here", value, 3, 0, 1)


@pytest.mark.parametrize("bytes_kept", [True, False])
def test_open_groups_of_pictures_and_b_frames_are_read(tmp_path: Path, *, bytes_kept: bool) -> None:
    written = LeRobotSet(video="libx265", options={"g": "4", "x265-params": "log-level=none"}, late=2.0)
    written.write_video(tmp_path / "a.mp4", [image_of(0, step) for step in range(11)])
    data = (tmp_path / "a.mp4").read_bytes()
    cell = {"bytes": data if bytes_kept else None, "path": str(tmp_path / "a.mp4")}
    for step in range(11):
        (image,) = video_images("here", cell, 11, step, step + 1)
        assert abs(int((image[4].min(axis=1) > 240).sum()) - 4 * (step + 1)) <= 3


def test_a_pointer_of_git_lfs_in_place_of_a_video_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"version https://git-lfs.github.com/spec/v1\nsize 12\n")
    with pytest.raises(DataError, match=r"a\.mp4 is a git-lfs pointer"):
        video_images("here", {"bytes": None, "path": str(tmp_path / "a.mp4")}, 3, 0, 1)


@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_a_truncated_video_gives_an_error_and_no_other_image(share: float) -> None:
    video = _videos()[1]
    with pytest.raises(DataError, match="here: "):
        video_images("here", {"bytes": video[: int(share * len(video))]}, 7, 0, 7)
