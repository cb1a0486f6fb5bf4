"""A data folder is opened by what it says of itself or what the user says of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from tests.fixtures.hub import LocalHub
from tests.fixtures.lerobot import LeRobotSet

from rt1.actions import rt1_action_spec
from rt1.data.open_data import DataOptions, open_data
from rt1.data.open_mixture import open_mixture
from rt1.data.rlds.schema import RT1_FILE
from rt1.data.sources.base import instructions_of
from rt1.errors import DataError
from rt1.testing import check_source


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
    with pytest.raises(DataError, match=r"--image-key cannot be used here: .* --open-x"):
        open_data(data, DataOptions(open_x="bridge", image_key="observation/image"))
    with pytest.raises(ValueError, match="did you mean 'bridge"):
        open_data(data, DataOptions(open_x="brigde"))


def test_options_of_rlds_are_refused_for_a_lerobot_set(tmp_path: Path) -> None:
    (tmp_path / "meta").mkdir()
    (tmp_path / "meta" / "info.json").write_text("{}")
    for options in (DataOptions(split="val"), DataOptions(open_x="bridge"), DataOptions(skip_corrupt=True)):
        with pytest.raises(DataError, match=r"cannot be used here: .* a LeRobot data set"):
            open_data(tmp_path, options)


@pytest.mark.parametrize(
    ("name", "camera", "factor"),
    [("fractal20220817_data_lerobot", "image", (1.0, 1.0)), ("bridge_orig_lerobot", "image_0", (35.0, 5.6))],
)
def test_rt1_s_own_data_as_lerobot_sets_have_rt1_s_action(
    tmp_path: Path, name: str, camera: str, factor: tuple[float, float]
) -> None:
    stored = np.array([[0.01, -0.02, 0.03, 0.1, -0.1, 0.2, 1.0], [0.0, 0, 0, 0, 0, 0, 0]], np.float32)
    written = LeRobotSet(version="v2.0", lengths=(2, 2), video=None, actions=[stored] * 2)
    folder = written.write(tmp_path / "set")
    text = (folder / "meta/info.json").read_text().replace("images.top", f"images.{camera}")
    (folder / "meta/info.json").write_text(text)
    for path in folder.glob("data/*/*"):
        table = pq.read_table(path)
        columns = [column.replace("images.top", f"images.{camera}") for column in table.column_names]
        pq.write_table(table.rename_columns(columns), path)
    source = open_data(folder, DataOptions(open_x=name))
    check_source(source)
    assert source.name == name
    assert source.action_spec == rt1_action_spec(bins=512, world_bound=2.0)
    first, last = source.actions(0, 0, 2)
    np.testing.assert_allclose(first[1:4], stored[0, :3] * factor[0], rtol=1e-6)
    np.testing.assert_allclose(first[4:7], stored[0, 3:6] * factor[1], rtol=1e-6)
    assert (first[0], last[0]) == (1.0, 0.0)  # the arm, then the end
    assert (first[7], last[7]) == (-1.0, 1.0)  # open, then closed
    assert not first[8:].any()
    assert np.array_equal(source.actions(0, 1, 2)[0], last)


def test_two_action_keys_of_a_lerobot_set_are_joined(tmp_path: Path) -> None:
    grip = [[0.0, 1.0, 0.0], [1.0, 0.0, 1.0]]
    folder = LeRobotSet(lengths=(3, 3), video=None, extra={"grip": grip}).write(tmp_path / "set")
    source = open_data(folder, DataOptions(action_keys=("grip", "action")))
    assert source.actions(1, 0, 3)[:, 0].tolist() == grip[1]


def _arrays(steps: int, **more: Any) -> dict[str, Any]:
    rng = np.random.default_rng(steps)
    images = rng.integers(0, 256, (steps, 8, 8, 3), dtype=np.uint8)
    return {"image": images, "action": rng.uniform(-1, 1, (steps, 3)).astype(np.float32), **more}


def test_a_folder_of_npz_episodes_opens(tmp_path: Path) -> None:
    for steps in (4, 2):
        np.savez(tmp_path / f"{9 - steps}.npz", **_arrays(steps, says="push it"))
    source = open_data(tmp_path, DataOptions(instruction_key="says"))
    assert source.lengths.tolist() == [4, 2]
    assert source.instruction(0) == "push it"


def test_v_d4rl_s_pixels_open_with_one_sentence_for_all(tmp_path: Path) -> None:
    arrays = _arrays(5)
    np.savez(tmp_path / "0.npz", **{**arrays, "image": arrays["image"].transpose(0, 3, 1, 2)})
    options = DataOptions(instruction="run", channels_first=True, action_is_previous=True)
    source = open_data(tmp_path, options)
    assert source.lengths.tolist() == [4]
    np.testing.assert_array_equal(source.actions(0, 0, 1)[0], arrays["action"][1])


def test_a_robomimic_file_opens(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py", reason="the extra 'hdf5' is not installed")
    with h5py.File(tmp_path / "demo.hdf5", "w") as file:
        for number in range(2):
            for key, value in _arrays(3).items():
                file[f"data/demo_{number}/{key}"] = value
    options = DataOptions(instruction="lift the cube", group="data")
    assert open_data(tmp_path / "demo.hdf5", options).lengths.tolist() == [3, 3]
    assert open_data(tmp_path, options).instruction(1) == "lift the cube"


def test_a_saved_hugging_face_data_set_opens(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets", reason="the extra 'huggingface' is not installed")
    arrays = _arrays(4)
    rows = {
        "image": arrays["image"].tolist(),
        "action": arrays["action"].tolist(),
        "instruction": ["open"] * 2 + ["close"] * 2,
        "episode": [0, 0, 1, 1],
    }
    features = datasets.Features(
        {
            "image": datasets.Array3D((8, 8, 3), "uint8"),
            "action": datasets.List(datasets.Value("float32")),
            "instruction": datasets.Value("string"),
            "episode": datasets.Value("int64"),
        }
    )
    datasets.Dataset.from_dict(rows, features=features).save_to_disk(tmp_path / "set")
    options = DataOptions(instruction_key="instruction", episode_key="episode")
    source = open_data(tmp_path / "set", options)
    assert source.lengths.tolist() == [2, 2]
    assert [source.instruction(episode) for episode in range(2)] == ["open", "close"]


def test_without_an_instruction_it_says_how_to_give_one(tmp_path: Path) -> None:
    np.savez(tmp_path / "0.npz", **_arrays(2))
    with pytest.raises(DataError, match=r"--instruction-key, or give one sentence for all episodes with --instruction"):
        open_data(tmp_path, DataOptions())


def test_several_action_arrays_are_joined_in_their_order(tmp_path: Path) -> None:
    left, right = np.ones((2, 3), np.float32), np.zeros(2, np.int64)
    np.savez(tmp_path / "0.npz", **_arrays(2, right=right, left=left))
    source = open_data(tmp_path, DataOptions(instruction="go", action_keys=("left", "right")))
    assert source.action_spec.dimension_names == ("left_0", "left_1", "left_2", "right")
    assert source.actions(0, 0, 2).tolist() == [[1, 1, 1, 0]] * 2


def test_options_of_arrays_are_refused_for_other_data(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"--group cannot be used here: .* RLDS"):
        open_data(tmp_path, DataOptions(group="data"))


@pytest.mark.parametrize(
    ("more", "named"),
    [
        ({"group": "data"}, "--group"),
        ({"start_key": "first"}, "--start-key"),
        ({"episode_key": "episode"}, "--episode-key"),
        ({"split": "test"}, "--split"),
        ({"open_x": "bridge_dataset"}, "--open-x"),
        ({"skip_corrupt": True, "split": "test"}, "--split, --skip-corrupt"),
    ],
)
def test_options_that_mean_nothing_for_npz_are_refused(tmp_path: Path, more: dict[str, Any], named: str) -> None:
    np.savez(tmp_path / "0.npz", **_arrays(2))
    with pytest.raises(
        DataError, match=rf"^{named} cannot be used here: .* is a folder of npz episodes\. Leave it out"
    ):
        open_data(tmp_path, DataOptions(instruction="go", **more))


def test_options_that_mean_nothing_for_hdf5_are_refused(tmp_path: Path) -> None:
    (tmp_path / "demo.hdf5").write_bytes(b"")
    changes: list[dict[str, Any]] = [{"episode_key": "episode"}, {"split": "test"}]
    for more in changes:
        with pytest.raises(DataError, match=r"cannot be used here: .* is HDF5\. Leave it out"):
            open_data(tmp_path, DataOptions(instruction="go", **more))


def test_options_that_mean_nothing_for_a_hugging_face_data_set_are_refused(tmp_path: Path) -> None:
    (tmp_path / "state.json").write_text("{}")
    changes: list[dict[str, Any]] = [{"channels_first": True}, {"group": "data"}, {"split": "test"}]
    for more in changes:
        with pytest.raises(DataError, match=r"cannot be used here: .* is a saved Hugging Face data set\. Leave it out"):
            open_data(tmp_path, DataOptions(instruction="go", **more))


def test_several_instruction_keys_are_the_instructions_of_one_episode(foreign: Path) -> None:
    keys = "language_instruction,episode_metadata/task"
    source = open_data(foreign, DataOptions(action_keys=("action",), instruction_key=keys))
    assert instructions_of(source, 1) == ("close the drawer", "task-1")
    assert source.instruction(0) == "open the drawer"
    with pytest.raises(DataError, match="'tusk'"):
        open_data(foreign, DataOptions(action_keys=("action",), instruction_key="language_instruction,tusk"))


def test_empty_instructions_are_left_out_by_an_option(
    make_source: Callable[..., Any], write_recording: Callable[..., Path], tmp_path: Path
) -> None:
    source = make_source(4, 6, 5)
    source.task = lambda episode: ("open", "", "close")[episode]
    folder = write_recording(tmp_path / "data", source)
    keys = DataOptions(action_keys=("action",), instruction_key="episode_metadata/task")
    assert open_data(folder, keys).lengths.tolist() == [4, 6, 5]
    assert open_data(folder, replace(keys, skip_empty=True)).lengths.tolist() == [4, 5]
    arrays = tmp_path / "npz"
    arrays.mkdir()
    for number, sentence in enumerate(("open", " ")):
        np.savez(
            arrays / f"{number}.npz",
            image=np.zeros((3, 8, 8, 3), np.uint8),
            action=np.zeros((3, 2), np.float32),
            text=np.array(sentence),
        )
    options = DataOptions(instruction_key="text", image_key="image", action_keys=("action",), skip_empty=True)
    assert len(open_data(arrays, options).lengths) == 1


def test_a_data_set_of_the_hub_is_downloaded_and_named_by_its_address(
    data: Path, hub: LocalHub, tmp_path: Path
) -> None:
    hub.add("user/set", data, kind="datasets", revision="v1")
    source = open_data(Path("hf://datasets/user/set@v1"), DataOptions())
    assert source.lengths.tolist() == [4, 6, 5, 4]
    assert source.name == "hf://datasets/user/set@v1"
    (tmp_path / "mixture.toml").write_text('[[parts]]\ndata = "hf://datasets/user/set@v1"\n')
    (part,) = open_mixture([tmp_path / "mixture.toml"], DataOptions())
    assert part.source.name == source.name
    (part,) = open_mixture(["hf://datasets/user/set@v1=2"], DataOptions())
    assert (part.source.name, part.weight) == (source.name, 2.0)
    with pytest.raises(DataError, match=r"user/none .*no repository"):
        open_data(Path("hf://datasets/user/none"), DataOptions())
