"""LeRobot sets as a source: what was written comes back from any step, and damage is told with the file."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rt1.actions import ActionSpec, Continuous
from rt1.data.lerobot.metadata import LeRobotSettings
from rt1.data.lerobot.reader import LeRobotSource
from rt1.data.lerobot.writer import LeRobotWriter
from rt1.data.open_data import DataOptions, open_data
from rt1.data.rlds.writer import RecordedEpisode, RecordingSettings
from rt1.data.sources.base import EpisodeSource
from rt1.errors import DataError
from rt1.testing import check_source

pa = pytest.importorskip("pyarrow", reason="LeRobot sets need pyarrow: the extra lerobot")
pq = pytest.importorskip("pyarrow.parquet", reason="LeRobot sets need pyarrow: the extra lerobot")

DATA = "data/chunk-000/file-000.parquet"
EPISODES = "meta/episodes/chunk-000/file-000.parquet"
EMBEDDINGS = "meta/rt1_embeddings/chunk-000/file-000.safetensors"


@pytest.fixture(scope="session")
def written(
    tmp_path_factory: pytest.TempPathFactory, settings: RecordingSettings, episodes: list[RecordedEpisode]
) -> Path:
    """Five episodes in three files."""
    folder = tmp_path_factory.mktemp("lerobot") / "set"
    LeRobotWriter(folder, LeRobotSettings(recording=settings, fps=3)).write(lambda number: episodes[number])
    return folder


@pytest.fixture
def damaged(written: Path, tmp_path: Path) -> Path:
    """A copy to be damaged."""
    return Path(shutil.copytree(written, tmp_path / "copy"))


def _without_notes(folder: Path) -> Path:
    """Leave what any other recorder would have written."""
    for name in ("rt1.json", "recording.json"):
        (folder / "meta" / name).unlink()
    shutil.rmtree(folder / "meta/rt1_embeddings")
    for path in folder.glob("meta/episodes/*/*"):
        pq.write_table(pq.read_table(path).drop_columns(["rt1/task"]), path)
    return folder


def _edit(folder: Path, name: str, change: Callable[[dict[str, Any]], object]) -> None:
    content = json.loads((folder / name).read_text())
    change(content)
    (folder / name).write_text(json.dumps(content))


def _set_column(path: Path, name: str, values: Any) -> None:
    table = pq.read_table(path)
    at = table.schema.get_field_index(name)
    pq.write_table(table.set_column(at, table.schema.field(at), [pa.array(values, table.schema.field(at).type)]), path)


def test_everything_written_comes_back(
    written: Path, settings: RecordingSettings, episodes: list[RecordedEpisode]
) -> None:
    source = LeRobotSource(written)
    assert isinstance(source, EpisodeSource)
    assert (source.name, source.action_spec) == ("push_blocks", settings.action_spec)
    assert source.text_encoder == settings.text_encoder
    assert source.details["control_rate"] == 3
    assert source.lengths.tolist() == [1, 2, 3, 4, 5]
    for number, episode in enumerate(episodes):
        steps = number + 1
        assert source.encoded_images(number, 0, steps) == episode.images
        assert np.array_equal(source.actions(number, 0, steps), episode.actions)
        assert (source.instruction(number), source.task(number)) == (episode.instruction, episode.task)
        assert np.array_equal(source.text_embedding(number), episode.text_embedding)  # type: ignore[arg-type]


def test_a_source_passes_the_check(written: Path) -> None:
    source = LeRobotSource(written, name="blocks")
    check_source(source)
    assert source.name == "blocks"


def test_a_set_of_another_recorder_gets_its_bounds_from_its_actions(
    damaged: Path, episodes: list[RecordedEpisode]
) -> None:
    source = LeRobotSource(_without_notes(damaged))
    actions = np.concatenate([episode.actions for episode in episodes])
    assert source.action_spec.dimension_names == ("move_0", "move_1", "move_2")
    assert np.array_equal(source.action_spec.low, actions.min(axis=0))
    assert np.array_equal(source.action_spec.high, actions.max(axis=0))
    assert source.text_embedding(0) is None
    assert (source.name, source.task(0), source.text_encoder) == ("copy", "", None)


def test_row_groups_that_cross_episodes_are_read_too(damaged: Path, episodes: list[RecordedEpisode]) -> None:
    for number in range(3):
        path = damaged / f"data/chunk-000/file-{number:03d}.parquet"
        pq.write_table(pq.read_table(path), path, row_group_size=2)
    source = LeRobotSource(damaged)
    assert [source.encoded_images(e, 0, e + 1) for e in range(5)] == [episode.images for episode in episodes]
    assert source.encoded_images(4, 1, 4) == episodes[4].images[1:4]


def test_an_action_of_one_entry_is_stored_as_lerobot_does(
    tmp_path: Path, settings: RecordingSettings, episodes: list[RecordedEpisode]
) -> None:
    spec = ActionSpec(parts=(Continuous(name="grip", low=(-1.0,), high=(1.0,)),))
    one = RecordingSettings(**{**vars(settings), "action_spec": spec, "episodes": 1})
    first = RecordedEpisode(**{**vars(episodes[0]), "actions": episodes[0].actions[:, :1]})
    LeRobotWriter(tmp_path / "one", LeRobotSettings(recording=one, fps=3)).write(lambda _: first)
    assert pq.read_schema(tmp_path / "one" / DATA).field("action").type == pa.float32()
    assert np.array_equal(LeRobotSource(tmp_path / "one").actions(0, 0, 1), first.actions)


def test_steps_and_episodes_out_of_range_are_refused(written: Path) -> None:
    source = LeRobotSource(written)
    with pytest.raises(IndexError, match=r"push_blocks.*episode 5.*0\.\.4"):
        source.instruction(5)
    with pytest.raises(IndexError, match=r"0\.\.3.*episode 1.*2 steps"):
        source.encoded_images(1, 0, 3)
    with pytest.raises(IndexError, match=r"steps -1\.\.1 of episode 0"):
        source.actions(0, -1, 1)


def test_changing_instructions_are_told(damaged: Path) -> None:
    _set_column(damaged / DATA, "task_index", [0, 0, 1])
    with pytest.warns(UserWarning, match="1 episodes change their instruction"):
        assert LeRobotSource(damaged).instruction(1) == "push the red block"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_key": "observation.images.imag"}, "unknown image key .*did you mean 'observation.images.image'"),
        ({"action_key": "actoin"}, "unknown action key 'actoin', did you mean 'action'"),
        ({"action_key": "index"}, "unknown action key 'index'"),
        (
            {"action_spec": ActionSpec(parts=(Continuous(name="grip", low=(0.0,), high=(1.0,)),))},
            r"'action' has 3 entries, the action spec 1 dimensions \(grip\)",
        ),
    ],
)
def test_features_that_do_not_fit_are_refused(written: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        LeRobotSource(written, **options)


@pytest.mark.parametrize("notes", [{"info": {"video.is_depth_map": True}}, {"video_info": {"is_depth_map": True}}])
def test_a_depth_map_is_no_camera(damaged: Path, notes: dict[str, Any]) -> None:
    depth = {"dtype": "image", "shape": [1, 1, 3], **notes}
    _without_notes(damaged)
    _edit(damaged, "meta/info.json", lambda info: info["features"].update(depth=depth))
    assert LeRobotSource(damaged).image_key == "observation.images.image"
    with pytest.raises(DataError, match="'depth' holds depth maps"):
        LeRobotSource(damaged, image_key="depth")


def test_several_cameras_must_be_chosen_from(damaged: Path) -> None:
    _without_notes(damaged)
    _edit(damaged, "meta/info.json", lambda info: info["features"].update(wrist={"dtype": "image", "shape": [1, 1, 3]}))
    with pytest.raises(DataError, match=r"2 image keys .*wrist"):
        LeRobotSource(damaged)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda info: info.update(codebase_version="v1.6"), "codebase_version 'v1.6'.*lerobot"),
        (lambda info: info.update(codebase_version="v2.1"), "episodes.jsonl"),
        (lambda info: info.update(codebase_version="v4.0"), "codebase_version 'v4.0'.*Update rt1"),
        (lambda info: info.pop("features"), "is damaged or not in the expected form"),
        (lambda info: info.update(fps=0), "fps is 0.0"),
        (lambda info: info.update(total_episodes=6), r"promises the episodes 0\.\.5, found 5 episodes"),
        (lambda info: info.update(data_path="data/{shard}.parquet"), "the path template .* is not a field"),
    ],
)
def test_a_description_that_does_not_fit_is_refused(
    damaged: Path, change: Callable[[dict[str, Any]], object], message: str
) -> None:
    _edit(damaged, "meta/info.json", change)
    with pytest.raises(DataError, match=message):
        LeRobotSource(damaged)


@pytest.mark.parametrize(
    ("name", "column", "values", "message"),
    [
        (EPISODES, "length", [0, 2], r"episode 0 has length 0"),
        (EPISODES, "length", [3, 2], r"episode 0 has length 3 and the steps 0\.\.1"),
        (EPISODES, "episode_index", [1, 1], r"found 5 episodes, numbered 1\.\.4"),
        (DATA, "episode_index", [0, 0, 1], r"its rows are not the 3 steps of the episodes 0\.\.1"),
        (DATA, "task_index", [7, 0, 0], r"episode 0 has task_index 7.*\[0, 1\]"),
        (DATA, "task_index", [0, None, 0], "'task_index' has 1 empty places"),
        (
            DATA,
            "action",
            [[0.0] * 3, [0.0, float("nan"), 0.0], [0.0] * 3],
            r"'action' of episode 1, step 0 is \[0.0, nan",
        ),
        (DATA, "action", [[0.0] * 3, [0.0, None, 0.0], [0.0] * 3], "must hold 3 numbers"),
    ],
)
def test_tables_that_do_not_fit_are_refused(
    damaged: Path, name: str, column: str, values: list[Any], message: str
) -> None:
    _set_column(damaged / name, column, values)
    with pytest.raises(DataError, match=message):
        LeRobotSource(damaged)


def test_an_empty_instruction_gets_the_default(damaged: Path) -> None:
    _set_column(damaged / "meta/tasks.parquet", "__index_level_0__", ["push", " "])
    stored = LeRobotSource(damaged)
    source = open_data(damaged, DataOptions(instruction="wait"))
    pairs = {(stored.instruction(episode).strip(), source.instruction(episode)) for episode in range(5)}
    assert pairs == {("push", "push"), ("", "wait")}


@pytest.mark.parametrize("name", ["data/chunk-000/file-001.parquet", EPISODES, "meta/tasks.parquet"])
def test_truncated_and_missing_tables_are_refused(damaged: Path, name: str) -> None:
    path = damaged / name
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DataError, match=rf"{path.name} .*damaged"):
        LeRobotSource(damaged)
    path.unlink()
    with pytest.raises(DataError, match=f"{path.name} is missing|promises the episodes"):
        LeRobotSource(damaged)


def test_other_missing_files_are_refused(damaged: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no meta/info\.json"):
        LeRobotSource(tmp_path)
    embeddings = damaged / EMBEDDINGS
    embeddings.write_bytes(embeddings.read_bytes()[:40])
    with pytest.raises(DataError, match=r"file-000.safetensors is damaged"):
        LeRobotSource(damaged)
    embeddings.unlink()
    with pytest.raises(DataError, match=r"rt1_embeddings.*3 text embeddings for 5 episodes"):
        LeRobotSource(damaged)
    shutil.rmtree(damaged / "meta/rt1_embeddings")
    with pytest.raises(DataError, match=r"rt1_embeddings is missing"):
        LeRobotSource(damaged)


def test_images_that_are_not_there_are_refused(damaged: Path) -> None:
    table = pq.read_table(damaged / DATA)
    images = [{"bytes": None, "path": "a.png"}, *table["observation.images.image"].to_pylist()[1:]]
    _set_column(damaged / DATA, "observation.images.image", images)
    with pytest.raises(DataError, match=r"file-000\.parquet.*step 0 of episode 0.*image"):
        LeRobotSource(damaged).encoded_images(0, 0, 1)
    pq.write_table(table.drop_columns(["observation.images.image"]), damaged / DATA)
    with pytest.raises(DataError, match=r"column 'observation\.images\.image'"):
        LeRobotSource(damaged)


def test_a_flipped_byte_in_an_image_is_noticed(damaged: Path, episodes: list[RecordedEpisode]) -> None:
    path = damaged / DATA
    whole = path.read_bytes()
    path.write_bytes(whole.replace(image := episodes[1].images[1], image[:-9] + bytes([image[-9] ^ 1]) + image[-8:]))
    assert path.read_bytes() != whole
    source = LeRobotSource(damaged)
    assert source.encoded_images(0, 0, 1) == episodes[0].images
    with pytest.raises(DataError, match=r"file-000.parquet is damaged"):
        source.encoded_images(1, 0, 1)


def test_a_flipped_byte_in_the_tasks_is_noticed_or_harmless(damaged: Path) -> None:
    path = damaged / "meta/tasks.parquet"
    whole = path.read_bytes()
    for place in range(0, len(whole), 37):
        flipped = bytearray(whole)
        flipped[place] ^= 0x41
        path.write_bytes(bytes(flipped))
        with suppress(DataError):  # anything else fails the test
            assert len(LeRobotSource(damaged).lengths) == 5


@pytest.mark.parametrize(
    ("name", "column", "values"),
    [
        (DATA, "task_index", ["0", "0", "1"]),
        (DATA, "episode_index", [[0], [1], [1]]),
        (EPISODES, "length", [{"a": 1}, {"a": 2}]),
        (EPISODES, "data/chunk_index", [0.5, 0.5]),
        (EPISODES, "length", [2**62, 2]),
        ("meta/tasks.parquet", "task_index", [[0], [1]]),
    ],
)
def test_a_mistyped_column_is_one_line_that_names_the_folder(
    damaged: Path, name: str, column: str, values: list[Any]
) -> None:
    table = pq.read_table(damaged / name)
    table = table.set_column(table.column_names.index(column), column, pa.array(values))
    pq.write_table(table, damaged / name)
    with pytest.raises(DataError, match=str(damaged)) as caught:
        LeRobotSource(damaged)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("meta/info.json", lambda c: c.update(fps={})),
        ("meta/info.json", lambda c: c.update(total_episodes=float("inf"))),
        ("meta/info.json", lambda c: c["features"]["action"].update(shape=3)),
        ("meta/info.json", lambda c: c.update(data_path="../{chunk_index}/{file_index}.parquet")),
        ("meta/info.json", lambda c: c.update(data_path="{chunk_index:999999999d}")),
        ("meta/info.json", lambda c: c.update(data_path="{chunk_index.__class__}")),
        ("meta/rt1.json", lambda c: c["action_spec"].update(bins=float("inf"))),
        ("meta/rt1.json", lambda c: c.update(details=3)),
    ],
)
def test_a_mistyped_json_file_is_one_line_that_names_it(
    damaged: Path, name: str, change: Callable[[dict[str, Any]], object]
) -> None:
    _edit(damaged, name, change)
    with pytest.raises(DataError, match=str(damaged)) as caught:
        LeRobotSource(damaged)
    assert "\n" not in str(caught.value)


def test_embeddings_that_are_not_finite_are_refused(damaged: Path) -> None:
    path = damaged / EMBEDDINGS
    content = path.read_bytes()
    path.write_bytes(content[: -5 * 8 - 4] + b"\xff" * 4 + content[-5 * 8 :])
    with pytest.raises(DataError, match=r"file-000\.safetensors .*finite"):
        LeRobotSource(damaged)


def test_an_action_beyond_the_range_of_float32_is_refused_as_not_finite(damaged: Path) -> None:
    table = pq.read_table(damaged / DATA)
    values = pa.array([[1e300, 0.0, 0.0]] * len(table), pa.list_(pa.float64(), 3))
    pq.write_table(table.set_column(table.column_names.index("action"), "action", values), damaged / DATA)
    with pytest.raises(DataError, match=r"'action' of episode 0, step 0 .*finite"):
        LeRobotSource(damaged)


def test_actions_of_unequal_lengths_are_refused(damaged: Path) -> None:
    table = pq.read_table(damaged / DATA)
    values = pa.array([[0.0] * 2, [0.0] * 4, [0.0] * 3], pa.list_(pa.float32()))
    pq.write_table(table.set_column(table.column_names.index("action"), "action", values), damaged / DATA)
    with pytest.raises(DataError, match=r"file-000\.parquet: the column 'action' is list.*3 numbers"):
        LeRobotSource(damaged)
