"""A data folder is opened by what it says of itself or what the user says of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rt1.data.open_data import DataOptions, open_data
from rt1.data.rlds.schema import RT1_FILE
from rt1.errors import DataError


@pytest.fixture
def data(make_source: Callable[..., Any], write_recording: Callable[..., Path], tmp_path: Path) -> Path:
    return write_recording(tmp_path / "data", make_source(4, 6, 5, 4))


@pytest.fixture
def foreign(data: Path) -> Path:
    """The same data set as another program would have written it."""
    (data / RT1_FILE).unlink()
    (data / "recording.json").unlink(missing_ok=True)
    return data


def test_our_own_recordings_need_no_keys(data: Path) -> None:
    source = open_data(data, DataOptions())
    assert source.lengths.tolist() == [4, 6, 5, 4]
    assert source.action_spec.dimension_names == ("move_0", "move_1", "move_2")


def test_a_foreign_set_is_read_by_its_keys_and_without_them_these_are_named(foreign: Path) -> None:
    with pytest.raises(DataError, match=r"no rt1\.json.*--image-key.*observation/image") as error:
        open_data(foreign, DataOptions())
    assert "\n" not in str(error.value)
    source = open_data(foreign, DataOptions(action_keys=("action",)))
    assert source.instruction(1) == "close the drawer"
    with pytest.raises(DataError, match=r"'actoin'.*'action'"):
        open_data(foreign, DataOptions(action_keys=("actoin",)))


def test_what_was_skipped_can_be_asked_for(data: Path) -> None:
    shard = data / "memory-train.tfrecord-00001-of-00002"
    shard.write_bytes(shard.read_bytes()[:-50])
    with pytest.raises(DataError, match="00001-of-00002"):
        open_data(data, DataOptions())
    with pytest.warns(UserWarning, match="left out"):
        source = open_data(data, DataOptions(skip_corrupt=True))
    assert len(source.lengths) == 3


def test_keys_are_refused_beside_the_name_of_an_open_x_set(data: Path) -> None:
    with pytest.raises(DataError, match=r"--image-key .*--open-x"):
        open_data(data, DataOptions(open_x="bridge", image_key="observation/image"))
    with pytest.raises(ValueError, match="did you mean 'bridge"):
        open_data(data, DataOptions(open_x="brigde"))


def test_options_of_rlds_are_refused_for_a_lerobot_set(tmp_path: Path) -> None:
    (tmp_path / "meta").mkdir()
    (tmp_path / "meta" / "info.json").write_text("{}")
    for options in (DataOptions(split="val"), DataOptions(open_x="bridge"), DataOptions(skip_corrupt=True)):
        with pytest.raises(DataError, match=r"LeRobot.*--image-key"):
            open_data(tmp_path, options)
    with pytest.raises(DataError, match=r"--action-keys .*a, b.*LeRobot"):
        open_data(tmp_path, DataOptions(action_keys=("a", "b")))
