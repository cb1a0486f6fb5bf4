"""HDF5 files as known projects write them open by the name of their layout."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from rt1.data.open_data import DataOptions, open_data
from rt1.data.sources.base import EpisodeSource
from rt1.data.sources.decoding import decoded_images
from rt1.errors import DataError

h5py = pytest.importorskip("h5py", reason="HDF5 episodes need h5py")

STEPS = 4
RED = np.full((24, 32, 3), (200, 30, 10), np.uint8)
IMAGES = np.stack([np.roll(RED, step, axis=0) for step in range(STEPS)])
ACTIONS = np.random.default_rng(0).uniform(-1, 1, (STEPS, 3))


def _jpegs(*, swapped: bool = False) -> list[bytes]:
    """JPEG bytes of RGB images, or with blue and red swapped, as ``cv2.imencode`` writes an RGB array."""
    images = IMAGES if swapped else IMAGES[..., ::-1]
    return [cv2.imencode(".jpg", np.ascontiguousarray(image))[1].tobytes() for image in images]


def _rows(kind: str, jpegs: list[bytes]) -> Any:
    """Return JPEG bytes as each kind of array: S, V, or rows of uint8 padded with zeros."""
    width = max(map(len, jpegs))
    if kind == "padded":
        return np.stack([np.frombuffer(jpeg.ljust(width, b"\0"), np.uint8) for jpeg in jpegs])
    return np.array([jpeg.ljust(width, b"\0") for jpeg in jpegs], dtype=f"{kind}{width}")


def _write_images(file: Any, key: str, kind: str, jpegs: list[bytes]) -> None:
    if kind != "vlen":
        file[key] = _rows(kind, jpegs)
        return
    array = file.create_dataset(key, (len(jpegs),), dtype=h5py.vlen_dtype(np.uint8))
    for row, jpeg in enumerate(jpegs):
        array[row] = np.frombuffer(jpeg, np.uint8)


def _is_red(source: EpisodeSource, episode: int = 0) -> bool:
    first = decoded_images(source, episode, 0, 1)[0]
    return first.shape == (24, 32, 3) and np.abs(first.astype(int) - RED[0, 0]).max() < 12


@pytest.mark.parametrize("kind", ["S", "V", "vlen", "padded", "pixels"])
def test_aloha_s_files_open_with_pixels_and_with_every_kind_of_bytes(tmp_path: Path, kind: str) -> None:
    with h5py.File(tmp_path / "episode_0.hdf5", "w") as file:
        if kind == "pixels":
            file["observations/images/cam_high"] = IMAGES
        else:
            _write_images(file, "observations/images/cam_high", kind, _jpegs())
        file["action"], file["compress_len"] = ACTIONS, np.zeros((1, STEPS))
    source = open_data(tmp_path, DataOptions(layout="aloha", instruction="transfer the cube"))
    assert source.lengths.tolist() == [STEPS]
    assert source.instruction(0) == "transfer the cube"
    assert _is_red(source)
    encoded = source.encoded_images(0, 1, 2)[0]
    assert encoded.startswith(b"\x89PNG") if kind == "pixels" else encoded == _jpegs()[1]


def test_an_option_comes_before_the_layout_s(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "episode_0.hdf5", "w") as file:
        _write_images(file, "observations/images/cam_low", "S", _jpegs(swapped=True))
        file["action"] = ACTIONS
    options = DataOptions(layout="aloha", instruction="go", image_key="observations/images/cam_low", bgr=True)
    assert _is_red(open_data(tmp_path, options))


def test_pixels_with_blue_first_are_swapped_once(tmp_path: Path) -> None:
    np.savez(tmp_path / "0.npz", image=IMAGES[..., ::-1], action=ACTIONS)
    source: Any = open_data(tmp_path, DataOptions(instruction="go", bgr=True))
    np.testing.assert_array_equal(source.images(0, 0, STEPS), IMAGES)
    np.testing.assert_array_equal(decoded_images(source, 0, 0, STEPS), IMAGES)
    assert source.bgr
    decoded: Any = cv2.imdecode(np.frombuffer(source.encoded_images(0, 0, 1)[0], np.uint8), cv2.IMREAD_COLOR)
    assert decoded[0, 0].tolist() == [200, 30, 10]


def _demos(path: Path, image_key: str, **attributes: str) -> Path:
    """Write robomimic's groups: demo_0, demo_1 and demo_10."""
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        data.attrs.update(attributes)
        for number in (10, 0, 1):
            file[f"data/demo_{number}/obs/{image_key}"] = IMAGES
            file[f"data/demo_{number}/actions"] = np.full((STEPS, 7), number, np.float64)
        file["mask/train"] = np.array([b"demo_0", b"demo_10"])
        file["mask/valid"] = np.array([b"demo_1"])
        file["mask/wrong"] = np.array([b"demo_7"])
    return path


def test_robomimic_s_masks_name_the_episodes(tmp_path: Path) -> None:
    path = _demos(tmp_path / "image.hdf5", "agentview_image")

    def numbers(mask: str | None) -> list[float]:
        source = open_data(path, DataOptions(layout="robomimic", instruction="lift the cube", mask=mask))
        return [float(source.actions(episode, 0, 1)[0, 0]) for episode in range(len(source.lengths))]

    assert (numbers(None), numbers("train"), numbers("valid")) == ([0, 1, 10], [0, 10], [1])
    with pytest.raises(DataError, match=r"image\.hdf5: unknown mask 'trian', did you mean 'train'"):
        numbers("trian")
    with pytest.raises(DataError, match=r"mask 'wrong' .*'demo_7'"):
        numbers("wrong")


def test_robomimic_s_files_without_an_instruction_ask_for_one(tmp_path: Path) -> None:
    path = _demos(tmp_path / "image.hdf5", "agentview_image")
    with pytest.raises(DataError, match=r"image\.hdf5.*'ep_meta'.*instruction="):
        open_data(path, DataOptions(layout="robomimic"))


def test_the_sentence_in_robocasa_s_attribute_is_read(tmp_path: Path) -> None:
    path = _demos(tmp_path / "image.hdf5", "agentview_image")
    with h5py.File(path, "a") as file:
        for number in (0, 1, 10):
            meta = {"layout_id": number, "lang": f"open drawer {number}"}
            file[f"data/demo_{number}"].attrs["ep_meta"] = json.dumps(meta)
    source = open_data(path, DataOptions(layout="robomimic"))
    assert [source.instruction(episode) for episode in range(3)] == [f"open drawer {n}" for n in (0, 1, 10)]


def test_libero_s_instruction_lies_in_an_attribute_of_the_group(tmp_path: Path) -> None:
    info = json.dumps({"problem_name": "kitchen", "language_instruction": "open the top drawer"})
    path = _demos(tmp_path / "demo.hdf5", "agentview_rgb", problem_info=info)
    source = open_data(path, DataOptions(layout="libero"))
    assert source.lengths.tolist() == [STEPS] * 3
    assert {source.instruction(episode) for episode in range(3)} == {"open the top drawer"}


def test_robotwin_s_colors_actions_and_sentences(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "instructions").mkdir()
    with h5py.File(tmp_path / "data/episode0.hdf5", "w") as file:
        _write_images(file, "observation/head_camera/rgb", "S", _jpegs(swapped=True))
        file["joint_action/vector"] = ACTIONS
    options = DataOptions(layout="robotwin")
    with pytest.raises(DataError, match=r"instructions/episode0\.json.*instruction="):
        open_data(tmp_path / "data", options)
    sentences = {"seen": ["lift the bottle", "raise the bottle"], "unseen": ["hoist it"]}
    (tmp_path / "instructions/episode0.json").write_text(json.dumps(sentences))
    source = open_data(tmp_path / "data", options)
    assert source.lengths.tolist() == [STEPS - 1]
    np.testing.assert_allclose(source.actions(0, 0, 1)[0], ACTIONS[1], rtol=1e-6)
    assert source.instruction(0) == "lift the bottle"
    assert _is_red(source)
    unseen = open_data(tmp_path / "data", DataOptions(layout="robotwin", instruction_key="unseen"))
    assert unseen.instruction(0) == "hoist it"


def test_robomind_s_files_lie_in_folders_of_their_own(tmp_path: Path) -> None:
    for number in (2, 10):
        folder = tmp_path / f"run_{number}/data"
        folder.mkdir(parents=True)
        with h5py.File(folder / "trajectory.hdf5", "w") as file:
            _write_images(file, "observations/rgb_images/camera_top", "vlen", _jpegs())
            file["master/joint_position"] = np.full((STEPS, 8), number, np.float64)
            file["language_raw"] = np.array([f"task {number}".encode()], dtype=object)
    source = open_data(tmp_path, DataOptions(layout="robomind"))
    assert [source.instruction(episode) for episode in range(2)] == ["task 2", "task 10"]
    assert source.action_spec.size == 8
    assert _is_red(source, 1)


def test_v_d4rl_s_rows_of_84_pixels_are_cut_at_their_first_steps(tmp_path: Path) -> None:
    kinds = np.ones(30, np.int64)
    kinds[[0, 10, 20]], kinds[[9, 19, 29]] = 0, 2
    with h5py.File(tmp_path / "0.hdf5", "w") as file:
        file["step_type"], file["action"] = kinds, np.random.default_rng(0).uniform(-1, 1, (30, 6))
        file["observation"] = np.zeros((30, 3, 84, 84), np.uint8)
    rows = DataOptions(
        image_key="observation",
        instruction="walk",
        channels_first=True,
        action_is_previous=True,
        start_key="step_type",
    )
    for options in (rows, DataOptions(layout="v-d4rl", instruction="walk")):
        assert open_data(tmp_path / "0.hdf5", options).lengths.tolist() == [9, 9, 9]


def test_minari_s_groups_have_one_more_image_than_actions(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "main_data.hdf5", "w") as file:
        for number in (0, 2, 10):
            file[f"episode_{number}/observations"] = IMAGES
            file[f"episode_{number}/actions"] = np.full((STEPS - 1, 2), number, np.float32)
        file["version"] = "1"
    source = open_data(tmp_path / "main_data.hdf5", DataOptions(layout="minari", instruction="reach the goal"))
    assert source.lengths.tolist() == [STEPS - 1] * 3
    assert [float(source.actions(episode, 0, 1)[0, 0]) for episode in range(3)] == [0, 2, 10]
    np.testing.assert_array_equal(decoded_images(source, 1, 0, 3), IMAGES[:3])


def test_a_group_without_groups_is_no_group_of_episodes(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.hdf5", "w") as file:
        file["observations"], file["actions"] = IMAGES, ACTIONS
    with pytest.raises(DataError, match=r"a\.hdf5: the group '/' holds no groups"):
        open_data(tmp_path / "a.hdf5", DataOptions(layout="minari", instruction="go"))


@pytest.mark.parametrize("dtype", [np.int64, np.float16, np.uint8])
def test_actions_of_every_number_type_are_read(tmp_path: Path, dtype: type) -> None:
    with h5py.File(tmp_path / "a.hdf5", "w") as file:
        file["image"], file["action"] = IMAGES, np.arange(STEPS, dtype=dtype)
    source = open_data(tmp_path / "a.hdf5", DataOptions(instruction="go"))
    assert source.actions(0, 0, STEPS)[:, 0].tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("name", ["a.hdf5", "a.npz"])
def test_a_git_lfs_pointer_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 12\n")
    with pytest.raises(DataError, match=rf"{name} is a git-lfs pointer.*git lfs pull"):
        open_data(tmp_path, DataOptions(instruction="go"))


def test_a_depth_array_is_refused(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.hdf5", "w") as file:
        file["image"], file["action"] = np.zeros((STEPS, 8, 8), np.uint16), ACTIONS
    with pytest.raises(DataError, match=r"'image' is uint16 \(4, 8, 8\)"):
        open_data(tmp_path / "a.hdf5", DataOptions(instruction="go"))
