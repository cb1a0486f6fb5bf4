"""What LeRobot sets in the wild look like: names, types, statistics, tasks and files that are not the usual ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.fixtures.lerobot import LeRobotSet

from rt1.data.lerobot.reader import LeRobotSource
from rt1.errors import DataError

pa = pytest.importorskip("pyarrow", reason="LeRobot sets need pyarrow: the extra lerobot")
pq = pytest.importorskip("pyarrow.parquet", reason="LeRobot sets need pyarrow: the extra lerobot")
pytest.importorskip("av", reason="videos need av: the extra lerobot")


def _written(folder: Path, **settings: Any) -> Path:
    return LeRobotSet(lengths=(3, 4), video=None, **settings).write(folder)


@pytest.mark.parametrize(
    "names",
    [["m0", "m1"], {"motors": ["m0", "m1"]}, {"left": ["m0"], "right": ["m1"]}, {"m1": 1, "m0": 0}],
)
def test_names_of_the_action_may_be_grouped(tmp_path: Path, names: object) -> None:
    actions = [np.arange(2 * n, dtype=np.float32).reshape(n, 2) for n in (3, 4)]
    source = LeRobotSource(_written(tmp_path / "set", names=names, actions=actions))
    assert source.action_spec.dimension_names == ("m0", "m1")


@pytest.mark.parametrize("names", [None, ["m0"], {"motors": ["m0", "m0"]}, {"motors": None}, "m0"])
def test_names_that_do_not_fit_are_left_out(tmp_path: Path, names: object) -> None:
    actions = [np.arange(2 * n, dtype=np.float32).reshape(n, 2) for n in (3, 4)]
    source = LeRobotSource(_written(tmp_path / "set", names=names, actions=actions))
    assert source.action_spec.dimension_names == ("action_0", "action_1")


@pytest.mark.parametrize("dtype", [np.int64, np.int32, np.float16, np.float64])
def test_an_action_may_have_any_type_of_number(tmp_path: Path, dtype: type) -> None:
    actions: list[Any] = [np.arange(2 * n).reshape(n, 2).astype(dtype) for n in (3, 4)]
    source = LeRobotSource(_written(tmp_path / "set", actions=actions))
    assert np.array_equal(source.actions(1, 1, 4), actions[1][1:].astype(np.float32))


def test_two_action_keys_are_joined(tmp_path: Path) -> None:
    grip = [[0.0, 1.0, 0.0], [1.0, 0.0, 1.0, 0.5]]
    written = LeRobotSet(lengths=(3, 4), video=None, extra={"grip": grip})
    source = LeRobotSource(written.write(tmp_path / "set"), action_key=("action", "grip"))
    assert [part.name for part in source.action_spec.parts] == ["action", "grip"]
    assert np.array_equal(source.actions(1, 0, 4)[:, 7], grip[1])
    assert np.array_equal(source.actions(1, 0, 4)[:, :7], written.actions[1])


def test_names_that_two_action_keys_share_are_left_out(tmp_path: Path) -> None:
    names = [f"m{number}" for number in range(7)]
    written = LeRobotSet(lengths=(2, 2), video=None, names=names, extra={"m0": [[0.0, 1.0], [1.0, 0.0]]})
    folder = written.write(tmp_path / "set")
    assert LeRobotSource(folder, action_key=("action", "m0")).action_spec.dimension_names[::7] == ("action_0", "m0")
    with pytest.raises(DataError, match=r"action, action\. Name each of them once"):
        LeRobotSource(folder, action_key=("action", "action"))


@pytest.mark.parametrize(
    "stats", [None, "{}", '{"action": {"min": [NaN], "max": null}}', '{"action": {"min": [-9], "max": "a"}}']
)
def test_bounds_come_from_the_actions_whatever_the_statistics_are(tmp_path: Path, stats: str | None) -> None:
    folder = _written(tmp_path / "set")
    if stats is not None:
        (folder / "meta/stats.json").write_text(stats)
    actions = np.concatenate(LeRobotSet(lengths=(3, 4)).actions)
    assert np.array_equal(LeRobotSource(folder).action_spec.low, actions.min(axis=0))


def test_statistics_that_the_actions_exceed_are_told(tmp_path: Path) -> None:
    folder = _written(tmp_path / "set")
    (folder / "meta/stats.json").write_text(json.dumps({"action": {"min": [-0.1] * 7, "max": [0.1] * 7}}))
    with pytest.warns(UserWarning, match="outside"):
        source = LeRobotSource(folder)
    assert source.action_spec.high.max() > 0.9


def test_an_empty_task_that_no_episode_has_is_no_error(tmp_path: Path) -> None:
    folder = _written(tmp_path / "set")
    table = {"task_index": [0, 1, 99], "__index_level_0__": ["task 0", "task 1", ""]}
    pq.write_table(pa.table(table), folder / "meta/tasks.parquet")
    assert LeRobotSource(folder).instruction(1) == "task 1"


@pytest.mark.parametrize("version", ["v2.1", "v3.0"])
@pytest.mark.parametrize(
    "pattern", ["data/**/*.parquet", "meta/**/episodes*", "meta/tasks.*", "meta/info.json", "**/*.mp4"]
)
def test_a_pointer_of_git_lfs_is_named(tmp_path: Path, version: str, pattern: str) -> None:
    folder = LeRobotSet(version=version, lengths=(3, 4)).write(tmp_path / "set")  # type: ignore[arg-type]
    paths = [path for path in (*folder.glob(pattern), *folder.glob("meta/episodes/*/*")) if path.is_file()]
    paths[0].write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"a" * 64 + b"\nsize 1234\n")
    with pytest.raises(DataError, match=rf"{paths[0].name} is a git-lfs pointer.*git lfs pull"):
        LeRobotSource(folder)
