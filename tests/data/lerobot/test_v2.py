"""LeRobot v2.0 and v2.1 in place: one file for each episode."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tests.fixtures.lerobot import CAMERA, LeRobotSet, assert_right_images

from rt1.common.json_files import MAX_BYTES
from rt1.data.lerobot.reader import LeRobotSource
from rt1.errors import DataError
from rt1.testing import check_source

pytest.importorskip("pyarrow", reason="LeRobot sets need pyarrow: the extra lerobot")
pytest.importorskip("av", reason="videos need av: the extra lerobot")


@pytest.mark.parametrize("version", ["v2.0", "v2.1"])
@pytest.mark.parametrize("video", [None, "libx264"])
def test_every_step_comes_back(tmp_path: Path, version: str, video: str | None) -> None:
    written = LeRobotSet(version=version, video=video, names={"motors": [f"m{i}" for i in range(7)]})  # type: ignore[arg-type]
    source = LeRobotSource(written.write(tmp_path / "set"))
    check_source(source)
    assert_right_images(source, written.lengths)
    for episode, actions in enumerate(written.actions):
        assert np.array_equal(source.actions(episode, 0, len(actions)), actions)
        assert source.instruction(episode) == f"task {episode}"
    assert source.action_spec.dimension_names == ("m0", "m1", "m2", "m3", "m4", "m5", "m6")
    assert np.array_equal(source.action_spec.high, np.concatenate(written.actions).max(axis=0))
    assert source.details["control_rate"] == 30
    assert source.task(0) == ""


def test_files_that_follow_another_template_than_the_set_names_are_read(tmp_path: Path) -> None:
    other = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
    written = LeRobotSet(version="v2.1", info={"data_path": other, "video_path": None})
    assert_right_images(LeRobotSource(written.write(tmp_path / "set")), written.lengths)


@pytest.mark.parametrize(
    ("name", "old", "new", "message"),
    [
        ("episodes.jsonl", '"length": 7', '"length": 6', r"episode_000001\.parquet.*6 steps of the episodes 1\.\.1"),
        ("episodes.jsonl", '"length": 7', '"length": 0', "episode 1 has length 0"),
        ("episodes.jsonl", '"episode_index": 3', '"episode_index": 4', r"episodes 0\.\.3, found 4 .*0\.\.4"),
        ("episodes.jsonl", "{", "[", r"episodes\.jsonl, line 1, is not JSON"),
        ("episodes.jsonl", '"length": 7', '"size": 7', r"episodes\.jsonl is damaged.*length"),
        ("tasks.jsonl", '"task_index": 1', '"task_index": 9', "episode 1 has task_index 1"),
    ],
)
def test_tables_that_do_not_fit_are_refused(tmp_path: Path, name: str, old: str, new: str, message: str) -> None:
    folder = LeRobotSet(version="v2.1", video=None).write(tmp_path / "set")
    path = folder / "meta" / name
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(DataError, match=message):
        LeRobotSource(folder)


def test_an_empty_instruction_is_read_as_empty(tmp_path: Path) -> None:
    folder = LeRobotSet(version="v2.1", video=None).write(tmp_path / "set")
    path = folder / "meta/tasks.jsonl"
    path.write_text(path.read_text().replace('"task 1"', "null"))
    source = LeRobotSource(folder)
    assert [source.instruction(episode) for episode in range(2)] == ["task 0", ""]


def test_a_missing_video_is_named(tmp_path: Path) -> None:
    folder = LeRobotSet(version="v2.0").write(tmp_path / "set")
    (folder / f"videos/chunk-000/{CAMERA}/episode_000002.mp4").unlink()
    with pytest.raises(DataError, match=r"episode_000002\.mp4 is missing"):
        LeRobotSource(folder)


def test_a_table_of_instructions_beyond_the_limit_is_one_line(tmp_path: Path) -> None:
    old, new = LeRobotSet(version="v2.1").write(tmp_path / "old"), LeRobotSet().write(tmp_path / "new")
    for folder, name in ((old, "tasks.jsonl"), (new, "tasks.parquet")):
        with (folder / "meta" / name).open("ab") as file:
            file.truncate(MAX_BYTES + 1)  # takes no space on the disk
        with pytest.raises(DataError, match=rf"{name} has 268435457 bytes\. At most 268435456 are read"):
            LeRobotSource(folder)
