"""Sets of many files: what was read once is stored, and used as long as no file changes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tests.fixtures.lerobot import LeRobotSet, assert_right_images

from rt1.data.lerobot.reader import LeRobotSource
from rt1.data.lerobot.steps import read_steps
from rt1.data.stored_arrays import index_folders, settings_hash

pytest.importorskip("pyarrow", reason="LeRobot sets need pyarrow: the extra lerobot")
pytest.importorskip("av", reason="videos need av: the extra lerobot")

WRITTEN = LeRobotSet(version="v2.1", lengths=(2, 3, 1), late=2.0)


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One entry for each time that the data files are read."""
    calls: list[int] = []

    def counted(*arguments: object) -> object:
        calls.append(1)
        return read_steps(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr("rt1.data.lerobot.reader.FEW_FILES", 2)
    monkeypatch.setattr("rt1.data.lerobot.reader.read_steps", counted)
    return calls


def test_the_second_opening_reads_no_data_file_and_gives_the_same(tmp_path: Path, reads: list[int]) -> None:
    folder = WRITTEN.write(tmp_path / "set")
    first, second = LeRobotSource(folder), LeRobotSource(folder)
    assert len(reads) == 1
    assert len(list((folder / ".rt1-index").iterdir())) == 1
    for source in (first, second):
        assert_right_images(source, WRITTEN.lengths)
        assert np.array_equal(source.actions(1, 0, 3), WRITTEN.actions[1])


def _damage(folder: Path) -> None:
    (path,) = (folder / ".rt1-index").glob("*/actions.npy")
    path.write_bytes(path.read_bytes()[:-1] + b"\x55")


def _damage_key(folder: Path) -> None:
    (path,) = (folder / ".rt1-index").glob("*/index.json")
    path.write_text('{"key": 3}')


def _change(folder: Path) -> None:
    path = folder / "data/chunk-000/episode_000000.parquet"
    path.write_bytes(path.read_bytes())


def _other_rate(folder: Path) -> None:
    path = folder / "meta/info.json"
    path.write_text(path.read_text().replace('"fps": 30', '"fps": 30.01'))


@pytest.mark.parametrize("change", [_damage, _damage_key, _change, _other_rate])
def test_a_changed_file_or_a_damaged_index_is_read_again(
    tmp_path: Path, reads: list[int], change: Callable[[Path], None]
) -> None:
    folder = WRITTEN.write(tmp_path / "set")
    LeRobotSource(folder)
    change(folder)
    assert_right_images(LeRobotSource(folder), WRITTEN.lengths)
    assert len(reads) == 2


def test_a_read_only_set_has_its_index_in_the_cache_of_the_user(
    tmp_path: Path, reads: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = WRITTEN.write(tmp_path / "set")
    (folder / ".rt1-index").touch()  # no folder can be made there
    LeRobotSource(folder)
    LeRobotSource(folder)
    assert len(reads) == 1
    assert list((tmp_path / "cache").rglob("actions.npy"))


def test_the_second_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert index_folders(tmp_path, "train", {})[1].parent == tmp_path / "rt1" / "index"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert index_folders(tmp_path, "train", {})[1].parent == Path.home() / ".cache" / "rt1" / "index"


def test_the_name_of_settings_depends_on_their_values_only() -> None:
    assert settings_hash({"a": 1, "b": 2}) == settings_hash({"b": 2, "a": 1})
    assert settings_hash({"a": 1}) != settings_hash({"a": 2})
