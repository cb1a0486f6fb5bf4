"""Where the instruction of a LeRobot episode comes from: its task, all of its tasks, or a column of text."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.fixtures.lerobot import LeRobotSet

from rt1.data.open_data import DataOptions, open_data
from rt1.data.sources.base import instructions_of
from rt1.errors import DataError

pa = pytest.importorskip("pyarrow", reason="LeRobot sets need pyarrow: the extra lerobot")
pq = pytest.importorskip("pyarrow.parquet", reason="LeRobot sets need pyarrow: the extra lerobot")

SENTENCES = [["open", "open", "open"], ["", "close", "close"], ["", "", ""], ["push", "pull", "pull"]]


@pytest.fixture(params=["v2.0", "v3.0"])
def with_sentences(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """A set whose instructions are a column of text, some of it missing."""
    columns = {"language_instruction": SENTENCES, "language_instruction_2": [["open it"] * 3, *SENTENCES[1:]]}
    return LeRobotSet(version=request.param, video=None, lengths=(3,) * 4, extra=columns).write(tmp_path / "set")


def test_the_first_text_of_a_column_is_the_instruction(with_sentences: Path) -> None:
    with pytest.warns(UserWarning, match="1 episodes change their instruction"):
        source = open_data(with_sentences, DataOptions(instruction_key="language_instruction"))
    assert [source.instruction(episode) for episode in range(4)] == ["open", "close", "", "push"]
    assert open_data(with_sentences, DataOptions()).instruction(0) == "task 0"


@pytest.mark.filterwarnings("ignore:.*change their instruction")
def test_several_columns_are_several_instructions(with_sentences: Path) -> None:
    source = open_data(with_sentences, DataOptions(instruction_key="language_instruction,language_instruction_2"))
    assert instructions_of(source, 0) == ("open", "open it")
    assert instructions_of(source, 1) == ("close",)


@pytest.mark.parametrize(
    ("key", "message"), [("action", "'action'.*language_instruction"), ("language_instructions", "did you mean")]
)
def test_a_column_that_is_no_text_is_refused(with_sentences: Path, key: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        open_data(with_sentences, DataOptions(instruction_key=key))


def test_the_column_of_instructions_replaces_missing_tasks(tmp_path: Path) -> None:
    written = LeRobotSet(version="v2.1", video=None, lengths=(3,) * 4, extra={"language_instruction": [["x"] * 3] * 4})
    folder = written.write(tmp_path / "set")
    (folder / "meta/tasks.jsonl").unlink()
    assert open_data(folder, DataOptions(instruction_key="language_instruction")).instruction(3) == "x"
    with pytest.raises(DataError, match=r"tasks\.jsonl is missing"):
        open_data(folder, DataOptions())
    (folder / "meta/tasks.jsonl").write_text("")
    assert open_data(folder, DataOptions()).instruction(0) == "task 0"  # as the table of episodes says


@pytest.mark.parametrize("version", ["v2.1", "v3.0"])
def test_all_tasks_of_an_episode_are_its_instructions(tmp_path: Path, version: str) -> None:
    lists = [["task 0", "task 1", "task 0"], [], ["task 2"], ["task 1"]]  # the last one is of another episode
    written = LeRobotSet(version=version, video=None, task_lists=lists)  # type: ignore[arg-type]
    source = open_data(written.write(tmp_path / "set"), DataOptions())
    expected = [("task 0", "task 1"), ("task 1",), ("task 2",), ("task 3",)]
    assert [instructions_of(source, episode) for episode in range(4)] == expected


def test_a_negative_task_index_is_no_task(tmp_path: Path) -> None:
    written = LeRobotSet(version="v2.1", video=None, lengths=(3, 2), task_lists=[["task 0"], []])
    folder = written.write(tmp_path / "set")
    path = folder / "data/chunk-000/episode_000001.parquet"
    table = pq.read_table(path)
    indexes = pa.array([-1, -1], pa.int64())
    pq.write_table(table.set_column(table.column_names.index("task_index"), "task_index", indexes), path)
    source = open_data(folder, DataOptions(instruction="wait"))
    assert source.instruction(1) == "wait"
    assert [instructions_of(source, episode) for episode in range(2)] == [("task 0",), ("wait",)]
