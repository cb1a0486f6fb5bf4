"""Writing LeRobot sets: the files have the form lerobot expects, and an interruption loses at most a file."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from rt1.data.lerobot.metadata import LeRobotSettings
from rt1.data.lerobot.reader import LeRobotSource
from rt1.data.lerobot.schema import write_embeddings
from rt1.data.lerobot.writer import LeRobotWriter
from rt1.data.rlds.writer import RecordedEpisode, RecordingSettings
from rt1.errors import DataError, SaveError

pa = pytest.importorskip("pyarrow", reason="LeRobot sets need pyarrow: the extra lerobot")
pq = pytest.importorskip("pyarrow.parquet", reason="LeRobot sets need pyarrow: the extra lerobot")


@pytest.fixture
def lerobot(settings: RecordingSettings) -> LeRobotSettings:
    return LeRobotSettings(recording=settings, fps=3)


def _bytes(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_same_episodes_give_the_same_bytes(
    tmp_path: Path, lerobot: LeRobotSettings, episodes: list[RecordedEpisode]
) -> None:
    for name in ("one", "other"):
        LeRobotWriter(tmp_path / name, lerobot).write(episodes.__getitem__)
    one, other = _bytes(tmp_path / "one"), _bytes(tmp_path / "other")
    assert one == other
    assert sorted(one) == [
        *(f"data/chunk-000/file-00{number}.parquet" for number in range(3)),
        *(f"meta/episodes/chunk-000/file-00{number}.parquet" for number in range(3)),
        "meta/info.json",
        "meta/recording.json",
        "meta/rt1.json",
        *(f"meta/rt1_embeddings/chunk-000/file-00{number}.safetensors" for number in range(3)),
        "meta/stats.json",
        "meta/tasks.parquet",
    ]


@pytest.mark.parametrize("stop", [0, 1, 2, 3, 4])
def test_an_interrupted_writing_resumes_to_the_same_bytes(
    tmp_path: Path, lerobot: LeRobotSettings, episodes: list[RecordedEpisode], stop: int
) -> None:
    def interrupted(number: int) -> RecordedEpisode:
        if number == stop:
            raise KeyboardInterrupt
        return episodes[number]

    folder = tmp_path / "interrupted"
    with pytest.raises(KeyboardInterrupt):
        LeRobotWriter(folder, lerobot).write(interrupted)
    (folder / "data/chunk-000").mkdir(parents=True, exist_ok=True)
    (folder / f"data/chunk-000/.file-00{stop // 2}.parquet.writing-7").touch()  # as a killed program leaves it
    with pytest.raises(DataError, match=f"not finished.*{stop // 2} files"):
        LeRobotSource(folder)
    resumed = LeRobotWriter(folder, lerobot)
    assert resumed.missing_episodes() == range(stop // 2 * 2, 5)
    resumed.write(episodes.__getitem__)
    LeRobotWriter(tmp_path / "straight", lerobot).write(episodes.__getitem__)
    assert _bytes(folder) == _bytes(tmp_path / "straight")


def test_a_crash_between_the_text_embeddings_and_the_episodes_file_leaves_no_trace(
    tmp_path: Path, lerobot: LeRobotSettings, episodes: list[RecordedEpisode]
) -> None:
    LeRobotWriter(tmp_path, lerobot).write(episodes.__getitem__)
    before = _bytes(tmp_path)
    for name in ("info.json", "episodes/chunk-000/file-002.parquet", "episodes/chunk-000/file-001.parquet"):
        (tmp_path / "meta" / name).unlink()
    writer = LeRobotWriter(tmp_path, lerobot)
    assert writer.missing_episodes() == range(2, 5)
    writer.write(episodes.__getitem__)
    assert _bytes(tmp_path) == before


def test_a_complete_set_is_not_written_again(
    tmp_path: Path, lerobot: LeRobotSettings, episodes: list[RecordedEpisode]
) -> None:
    LeRobotWriter(tmp_path / "set", lerobot).write(episodes.__getitem__)
    before = _bytes(tmp_path / "set")
    LeRobotWriter(tmp_path / "set", lerobot).write([].__getitem__)
    assert _bytes(tmp_path / "set") == before


def test_a_file_ends_with_the_episode_that_reaches_its_size(
    tmp_path: Path, settings: RecordingSettings, episodes: list[RecordedEpisode]
) -> None:
    big = replace(episodes[0], images=[episodes[0].images[0] + bytes(600_000)])  # decoders stop at the JPEG's end
    wide = replace(settings, episodes=4, episodes_per_shard=100)
    writer = LeRobotWriter(tmp_path, LeRobotSettings(recording=wide, fps=3, file_megabytes=1))
    writer.write(lambda _: big)
    files = sorted((tmp_path / "data/chunk-000").iterdir())
    assert [pq.read_metadata(path).num_rows for path in files] == [2, 2]


def test_the_tables_are_what_lerobot_expects(
    tmp_path: Path, lerobot: LeRobotSettings, episodes: list[RecordedEpisode]
) -> None:
    LeRobotWriter(tmp_path, lerobot).write(episodes.__getitem__)
    steps = pq.read_table(tmp_path / "data/chunk-000/file-001.parquet")
    assert {field.name: str(field.type) for field in steps.schema} == {
        "observation.images.image": "struct<bytes: binary, path: string>",
        "action": "fixed_size_list<element: float>[3]",
        "timestamp": "float",
        **dict.fromkeys(("frame_index", "episode_index", "index", "task_index"), "int64"),
        "next.reward": "float",
        "next.success": "bool",
    }
    assert steps["index"].to_pylist() == list(range(3, 10))
    assert steps["frame_index"].to_pylist() == [0, 1, 2, 0, 1, 2, 3]
    assert steps["timestamp"].to_pylist() == np.array([0, 1 / 3, 2 / 3, 0, 1 / 3, 2 / 3, 1], np.float32).tolist()
    rows = pq.read_table(tmp_path / "meta/episodes/chunk-000/file-001.parquet").to_pylist()
    places = ("episode_index", "length", "dataset_from_index", "dataset_to_index", "data/file_index", "tasks")
    assert [[row[name] for name in places] for row in rows] == [
        [2, 3, 3, 6, 1, ["push the red block"]],
        [3, 4, 6, 10, 1, ["push the blue block"]],
    ]
    assert np.shape(rows[0]["stats/observation.images.image/mean"]) == (3, 1, 1)
    tasks = pq.read_table(tmp_path / "meta/tasks.parquet")
    assert tasks.to_pydict() == {
        "task_index": [0, 1],
        "__index_level_0__": ["push the red block", "push the blue block"],
    }
    assert json.loads(tasks.schema.metadata[b"pandas"])["index_columns"] == ["__index_level_0__"]


def test_the_description_is_what_lerobot_expects(
    tmp_path: Path, lerobot: LeRobotSettings, episodes: list[RecordedEpisode]
) -> None:
    LeRobotWriter(tmp_path, replace(lerobot, robot_type="widowx")).write(episodes.__getitem__)
    info = json.loads((tmp_path / "meta/info.json").read_text())
    assert (info["codebase_version"], info["robot_type"], info["fps"]) == ("v3.0", "widowx", 3)
    assert [info[f"total_{name}"] for name in ("episodes", "frames", "tasks")] == [5, 15, 2]
    assert (info["splits"], info["video_path"]) == ({"train": "0:5"}, None)
    assert info["features"]["action"] == {"dtype": "float32", "shape": [3], "names": ["move_0", "move_1", "move_2"]}
    stats = json.loads((tmp_path / "meta/stats.json").read_text())
    actions = np.concatenate([episode.actions for episode in episodes])
    assert stats["action"]["count"] == [15]
    assert np.allclose(stats["action"]["std"], actions.std(axis=0, dtype=np.float64))
    assert set(stats) == set(info["features"])


def test_a_set_without_text_embeddings_has_none(
    tmp_path: Path, settings: RecordingSettings, episodes: list[RecordedEpisode]
) -> None:
    plain = LeRobotSettings(recording=replace(settings, text_encoder=None, episodes=1), fps=3)
    LeRobotWriter(tmp_path, plain).write(lambda _: replace(episodes[0], text_embedding=None))
    assert LeRobotSource(tmp_path).text_embedding(0) is None
    assert not (tmp_path / "meta/rt1_embeddings").exists()


def test_other_settings_and_other_folders_are_refused(tmp_path: Path, lerobot: LeRobotSettings) -> None:
    LeRobotWriter(tmp_path / "set", lerobot)
    with pytest.raises(DataError, match=r"settings.*fps was 3, now 4"):
        LeRobotWriter(tmp_path / "set", replace(lerobot, fps=4))
    (tmp_path / "thesis.txt").touch()
    with pytest.raises(SaveError, match=r"holds set, thesis\.txt and none of"):
        LeRobotWriter(tmp_path, lerobot)


def test_an_episode_that_does_not_fit_is_refused(
    tmp_path: Path, lerobot: LeRobotSettings, episodes: list[RecordedEpisode]
) -> None:
    bad = replace(episodes[0], actions=np.full((1, 3), np.nan, np.float32))
    with pytest.raises(DataError, match=r"episode 0.*step 0.*finite"):
        LeRobotWriter(tmp_path, lerobot).write(lambda _: bad)
    assert not list(tmp_path.glob("data/**/*.parquet"))


def test_a_full_disk_is_told_with_the_file(
    tmp_path: Path, lerobot: LeRobotSettings, episodes: list[RecordedEpisode], full_disk: object
) -> None:
    writer = LeRobotWriter(tmp_path, lerobot)
    full_disk(1000)  # type: ignore[operator]
    with pytest.raises(SaveError, match=r"could not save .*file-000.parquet"):
        writer.write(episodes.__getitem__)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"fps": 0}, "fps is 0"),
        ({"file_megabytes": 0}, "file_megabytes is 0"),
        ({"image_key": "observation/image"}, "a name without a slash"),
    ],
)
def test_impossible_settings_are_refused(lerobot: LeRobotSettings, change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(lerobot, **change)  # type: ignore[arg-type]


def test_a_video_needs_even_sizes(lerobot: LeRobotSettings) -> None:
    odd = replace(lerobot.recording, image_size=(23, 32))
    with pytest.raises(ValueError, match=r"23 x 32.*even"):
        replace(lerobot, recording=odd, video="h264")


def test_each_data_file_has_its_own_text_embeddings(
    tmp_path: Path, lerobot: LeRobotSettings, episodes: list[RecordedEpisode]
) -> None:
    LeRobotWriter(tmp_path, lerobot).write(episodes.__getitem__)
    files = sorted((tmp_path / "meta/rt1_embeddings/chunk-000").iterdir())
    assert [len(load_file(path)["rows"]) for path in files] == [2, 2, 1]


@pytest.mark.parametrize("before", [2, 5])
def test_the_one_file_of_text_embeddings_of_earlier_versions_is_read(
    tmp_path: Path, lerobot: LeRobotSettings, episodes: list[RecordedEpisode], before: int
) -> None:
    LeRobotWriter(tmp_path, lerobot).write(episodes.__getitem__)
    for number in range(3):
        if 2 * number < before:
            (tmp_path / f"meta/rt1_embeddings/chunk-000/file-00{number}.safetensors").unlink()
    embeddings = [episode.text_embedding for episode in episodes if episode.text_embedding is not None]
    write_embeddings(tmp_path / "meta/rt1_embeddings.safetensors", embeddings[:before])
    source = LeRobotSource(tmp_path)
    assert all(np.array_equal(source.text_embedding(e), vector) for e, vector in enumerate(embeddings))  # type: ignore[arg-type]
