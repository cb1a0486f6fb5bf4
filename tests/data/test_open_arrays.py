"""npz, HDF5 and saved Hugging Face data sets by the command line's words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rt1.data.open_data import DataOptions, open_data
from rt1.errors import DataError


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
    options = DataOptions(instruction="run", channels_first=True, action_leads_here=True)
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
    with pytest.raises(DataError, match=r"--instruction-key.*sentence.*--instruction"):
        open_data(tmp_path, DataOptions())


def test_several_action_arrays_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "0.npz", **_arrays(2))
    with pytest.raises(DataError, match=r"--action-keys .*a, b.*one array"):
        open_data(tmp_path, DataOptions(instruction="go", action_keys=("a", "b")))


def test_options_of_arrays_are_refused_for_other_data(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"--group .*npz or HDF5"):
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
    with pytest.raises(DataError, match=rf"^{named} .*npz"):
        open_data(tmp_path, DataOptions(instruction="go", **more))


def test_options_that_mean_nothing_for_hdf5_are_refused(tmp_path: Path) -> None:
    (tmp_path / "demo.hdf5").write_bytes(b"")
    changes: list[dict[str, Any]] = [{"episode_key": "episode"}, {"split": "test"}]
    for more in changes:
        with pytest.raises(DataError, match=r"HDF5.*leave it out"):
            open_data(tmp_path, DataOptions(instruction="go", **more))


def test_options_that_mean_nothing_for_a_hugging_face_data_set_are_refused(tmp_path: Path) -> None:
    (tmp_path / "state.json").write_text("{}")
    changes: list[dict[str, Any]] = [{"channels_first": True}, {"group": "data"}, {"split": "test"}]
    for more in changes:
        with pytest.raises(DataError, match=r"saved Hugging Face.*leave it out"):
            open_data(tmp_path, DataOptions(instruction="go", **more))
