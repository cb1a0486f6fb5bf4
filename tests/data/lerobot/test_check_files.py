"""Gaps between timestamps and short videos are found in the files of a LeRobot folder."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.fixtures.lerobot import LeRobotSet

from rt1.data.lerobot.check_files import file_problems

pa = pytest.importorskip("pyarrow", reason="the extra 'lerobot' is not installed")
av = pytest.importorskip("av", reason="the extra 'lerobot' is not installed")

KEY = "observation.images.top"


def _video(path: Path, frames: int, options: dict[str, str] | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", options=options or {}) as container:
        stream = container.add_stream("libx264", rate=10)
        stream.height = stream.width = 32
        stream.pix_fmt = "yuv420p"
        for number in range(frames):
            image = np.full((32, 32, 3), 10 * number, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode(None))


def _write(path: Path, columns: dict[str, list[float]]) -> None:
    import pyarrow.parquet as pq

    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path)


def _steps(path: Path, *episodes: int, gap: bool = False) -> None:
    times = np.tile(np.arange(5) / 10, len(episodes))
    if gap:
        times[3:5] += 0.4
    columns = {
        "episode_index": np.repeat(episodes, 5).tolist(),
        "frame_index": np.tile(np.arange(5), len(episodes)).tolist(),
        "timestamp": times.astype(np.float32).tolist(),
    }
    _write(path, columns)


def _info(folder: Path) -> None:
    (folder / "meta").mkdir(parents=True)
    (folder / "meta/info.json").write_text(json.dumps({"fps": 10}))


@pytest.fixture
def v2(tmp_path: Path) -> Callable[..., Path]:
    """Make two episodes of five steps, a video each."""

    def make(*, gap: bool = False, frames: int = 5) -> Path:
        _info(tmp_path)
        for episode in (0, 1):
            _steps(tmp_path / f"data/chunk-000/episode_{episode:06d}.parquet", episode, gap=gap and episode == 1)
            _video(tmp_path / f"videos/chunk-000/{KEY}/episode_{episode:06d}.mp4", frames if episode else 5)
        return tmp_path

    return make


@pytest.fixture
def v3(tmp_path: Path) -> Callable[..., Path]:
    """Make two episodes of five steps in one video."""

    def make(*, gap: bool = False, frames: int = 10, options: dict[str, str] | None = None) -> Path:
        _info(tmp_path)
        _steps(tmp_path / "data/chunk-000/file-000.parquet", 0, 1, gap=gap)
        places: dict[str, list[float]] = {f"videos/{KEY}/{name}_index": [0, 0] for name in ("chunk", "file")}
        _write(tmp_path / "meta/episodes/chunk-000/file-000.parquet", {"length": [5, 5], **places})
        _video(tmp_path / f"videos/{KEY}/chunk-000/file-000.mp4", frames, options)
        return tmp_path

    return make


@pytest.mark.parametrize("version", ["v2", "v3"])
def test_a_good_folder_has_no_problems(version: str, request: pytest.FixtureRequest) -> None:
    assert file_problems(request.getfixturevalue(version)()) == []


def test_a_fragmented_video_is_counted_by_its_packets(v3: Callable[..., Path]) -> None:
    assert file_problems(v3(options={"movflags": "frag_keyframe+empty_moov"})) == []


def test_a_gap_between_timestamps_is_named_with_its_place(v2: Callable[..., Path]) -> None:
    ((check, message),) = file_problems(v2(gap=True))
    assert check == "timestamp-gaps"
    assert message == "1 steps are not 1/10 s after the one before, the first is step 3 of episode 1 (0.5 s)"


def test_the_next_episode_is_no_gap(v3: Callable[..., Path]) -> None:
    ((_, message),) = file_problems(v3(gap=True))
    assert message.startswith("1 steps")
    assert "step 3 of episode 0" in message


@pytest.mark.parametrize("frames", [3, 7])
def test_a_video_of_one_episode_with_other_frames_than_steps_is_named(v2: Callable[..., Path], frames: int) -> None:
    ((check, message),) = file_problems(v2(frames=frames))
    assert check == "video-frames"
    assert f"episode_000001.mp4 has {frames} frames, its episodes have 5 steps" in message


def test_a_video_of_several_episodes_may_be_longer_but_not_shorter(v3: Callable[..., Path]) -> None:
    folder = v3(frames=12)
    assert file_problems(folder) == []
    _video(folder / f"videos/{KEY}/chunk-000/file-000.mp4", 8)
    ((check, message),) = file_problems(folder)
    assert check == "video-frames"
    assert "file-000.mp4 has 8 frames, its episodes have 10 steps" in message


@pytest.mark.parametrize("version", ["v2.1", "v3.0"])
def test_steps_with_a_task_of_another_episode_are_named(tmp_path: Path, version: Any) -> None:
    lists = [["task 0"], ["task 9", "task 1"], ["task 3"], []]
    folder = LeRobotSet(version=version, video=None, task_lists=lists).write(tmp_path / "set")
    next(folder.glob("data/*")).joinpath("._left_by_macos.parquet").write_bytes(b"x")
    ((check, message),) = file_problems(folder)
    assert check == "other-task"
    assert "1 episodes" in message
    assert "episode 2 they are 'task 2' and 'task 3'" in message
