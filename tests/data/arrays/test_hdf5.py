"""HDF5 episodes: a file each, a group each, V-D4RL's rows of 84 pixels, encoded images, and damage."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rt1.data.arrays.hdf5 import HDF5Layout, HDF5Source
from rt1.data.sources.images import encode_jpeg
from rt1.errors import DataError
from rt1.testing import check_source

h5py = pytest.importorskip("h5py", reason="HDF5 episodes need h5py")

RNG = np.random.default_rng(0)
LAYOUT = HDF5Layout(image_key="observations/images/front", instruction_key="instruction")


def _images(steps: int) -> Any:
    return RNG.integers(0, 256, (steps, 8, 10, 3), dtype=np.uint8)


def _write(path: Path, content: dict[str, Any]) -> Path:
    with h5py.File(path, "w") as file:
        for key, value in content.items():
            file[key] = value
    return path


def test_a_file_an_episode_comes_back_as_it_was_saved(tmp_path: Path) -> None:
    images, actions = _images(4), RNG.uniform(-1, 1, (4, 2)).astype(np.float32)
    content = {"observations/images/front": images, "action": actions, "instruction": "push", "vector": np.ones((4, 5))}
    _write(tmp_path / "episode_10.hdf5", content)
    _write(tmp_path / "episode_2.h5", {**content, "instruction": "pull"})
    source = HDF5Source(
        tmp_path,
        layout=HDF5Layout(image_key=LAYOUT.image_key, instruction_key="instruction", embedding_key="vector"),
        name="pushes",
    )
    check_source(source)
    assert source.name == "pushes"
    assert source.lengths.tolist() == [4, 4]
    assert [source.instruction(episode) for episode in range(2)] == ["pull", "push"]
    np.testing.assert_array_equal(source.actions(1, 1, 3), actions[1:3])
    np.testing.assert_array_equal(source.images(1, 1, 3), images[1:3])
    embedding = source.text_embedding(0)
    assert embedding is not None
    assert embedding.tolist() == [1] * 5


def test_a_group_an_episode_takes_its_sentence_from_an_attribute(tmp_path: Path) -> None:
    path = tmp_path / "demos.hdf5"
    images = {number: _images(number) for number in (10, 2)}
    with h5py.File(path, "w") as file:
        for number, stored in images.items():
            demo = file.create_group(f"data/demo_{number}")
            demo["obs/agentview_image"] = stored
            demo["actions"] = np.full((number, 7), number, np.float64)
            demo.attrs["language"] = f"sentence {number}"
    layout = HDF5Layout(
        image_key="obs/agentview_image", action_keys=("actions",), instruction_key="language", group="data"
    )
    source = HDF5Source(path, layout=layout)
    check_source(source)
    assert source.lengths.tolist() == [2, 10]
    assert source.instruction(1) == "sentence 10"
    np.testing.assert_array_equal(source.images(1, 3, 5), images[10][3:5])


def _v_d4rl(episodes: int, rows: int) -> dict[str, Any]:
    """Make rows as V-D4RL's 84-pixel files hold them (theirs have 501 an episode)."""
    step_type = np.ones(rows)
    step_type[[0, -1]] = 0, 2
    total = episodes * rows
    return {
        "observation": RNG.integers(0, 256, (total, 3, 84, 84), dtype=np.uint8),
        "action": RNG.uniform(-1, 1, (total, 6)).astype(np.float32),
        "discount": np.ones(total, np.float32),
        "reward": np.zeros(total, np.float32),
        "step_type": np.tile(step_type, episodes),
    }


def test_v_d4rl_s_rows_are_cut_into_episodes_and_paired_with_the_action_that_follows(tmp_path: Path) -> None:
    saved = _v_d4rl(3, 4)
    layout = HDF5Layout(
        image_key="observation",
        instruction="walk",
        channels_first=True,
        action_is_previous=True,
        start_key="step_type",
        start_value=0,
    )
    source = HDF5Source(_write(tmp_path / "0.hdf5", saved), layout=layout)
    check_source(source)
    assert source.lengths.tolist() == [3, 3, 3]
    np.testing.assert_array_equal(source.actions(1, 0, 3), saved["action"][5:8])
    np.testing.assert_array_equal(source.images(1, 0, 3), saved["observation"][4:7].transpose(0, 2, 3, 1))


def test_sentences_a_row_each_are_those_of_the_episode_s_first_row(tmp_path: Path) -> None:
    content = {"image": _images(3), "action": np.zeros((3, 1)), "first": [1, 0, 1], "text": ["a", "b", "c"]}
    layout = HDF5Layout(instruction_key="text", start_key="first")
    source = HDF5Source(_write(tmp_path / "rows.h5", content), layout=layout)
    assert [source.instruction(episode) for episode in range(2)] == ["a", "c"]


@pytest.mark.parametrize("padded", [True, False])
def test_encoded_images_are_handed_on_as_they_are(tmp_path: Path, padded: bool) -> None:  # noqa: FBT001
    jpegs = [encode_jpeg(image) for image in _images(3)]
    path = _write(tmp_path / "episode.hdf5", {"action": np.zeros((3, 2))})
    with h5py.File(path, "a") as file:
        if padded:
            width = max(map(len, jpegs)) + 3
            file["image"] = np.stack([np.frombuffer(jpeg.ljust(width, b"\0"), np.uint8) for jpeg in jpegs])
        else:
            rows = file.create_dataset("image", (3,), dtype=h5py.vlen_dtype(np.uint8))
            for row, jpeg in enumerate(jpegs):
                rows[row] = np.frombuffer(jpeg, np.uint8)
    source = HDF5Source(path, layout=HDF5Layout(instruction="push", encoded=True))
    check_source(source)
    assert source.encoded_images(0, 0, 3) == jpegs
    assert source.images(0, 1, 2)[0].shape == (8, 10, 3)
    with pytest.raises(IndexError, match="which has 3 steps"):
        source.encoded_images(0, 0, 4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"action": np.zeros((3, 2))}, "2 images and 3 actions"),
        ({"action": np.full((2, 2), np.inf)}, "the action of step 0 .*finite"),
        ({"observations/images/front": np.zeros((2, 3, 8, 8), np.uint8)}, "It must be uint8"),
    ],
)
def test_an_unusable_episode_is_named(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    good = {"observations/images/front": _images(2), "action": np.zeros((2, 2)), "instruction": "push"}
    _write(tmp_path / "bad.h5", {**good, **change})
    with pytest.raises(DataError, match=rf"bad\.h5: .*{message}"):
        HDF5Source(tmp_path, layout=LAYOUT)


@pytest.mark.parametrize(
    ("layout", "message"),
    [
        (HDF5Layout(image_key="images/fro", instruction="x"), "unknown array 'images/fro', did you mean 'images/fr"),
        (HDF5Layout(image_key="images", instruction="x"), "unknown array 'images'"),
        (HDF5Layout(image_key="images/front", instruction="x", group="date"), "unknown group 'date', did you mean"),
        (
            HDF5Layout(image_key="images/front", instruction="x", start_key="action", start_value=5),
            "row 0 begins no episode",
        ),
    ],
)
def test_a_layout_that_does_not_fit_is_answered(tmp_path: Path, layout: HDF5Layout, message: str) -> None:
    _write(tmp_path / "a.h5", {"images/front": _images(2), "action": np.zeros(2), "data/x": 1})
    with pytest.raises(DataError, match=rf"a\.h5: {message}"):
        HDF5Source(tmp_path, layout=layout)


@pytest.mark.parametrize("keep", [0, 100, 1500])
def test_a_truncated_file_is_refused_by_name(tmp_path: Path, keep: int) -> None:
    path = _write(tmp_path / "episode.hdf5", {"image": _images(20), "action": np.zeros((20, 2))})
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(DataError, match=r"episode\.hdf5 .*damaged"):
        HDF5Source(path, layout=HDF5Layout(instruction="push"))


def test_a_folder_without_files_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"has no file ending in \.hdf5 or \.h5"):
        HDF5Source(tmp_path, layout=LAYOUT)


def test_an_array_that_was_never_written_is_refused(tmp_path: Path) -> None:
    path = _write(tmp_path / "a.h5", {"image": _images(4)})
    with h5py.File(path, "a") as file:
        file.create_dataset("action", (4, 2), chunks=(2, 2), dtype=np.float32)[:2] = 1
    with pytest.raises(DataError, match=r"a\.h5.*32 bytes.*'action'"):
        HDF5Source(path, layout=HDF5Layout(instruction="push"))


@pytest.mark.parametrize("kind", ["link", "external", "virtual"])
def test_an_array_in_another_file_is_refused(tmp_path: Path, kind: str) -> None:
    other = _write(tmp_path / "other.h5", {"action": np.zeros((2, 2), np.float32)})
    path = _write(tmp_path / "a.h5", {"image": _images(2)})
    with h5py.File(path, "a") as file:
        if kind == "link":
            file["action"] = h5py.ExternalLink(other.name, "action")
        elif kind == "external":
            file.create_dataset("action", (2, 2), np.float32, external=[(str(other), 0, 16)])
        else:
            layout = h5py.VirtualLayout((2, 2), np.float32)
            layout[:] = h5py.VirtualSource(str(other), "action", (2, 2))
            file.create_virtual_dataset("action", layout)
    with pytest.raises(DataError, match=r"a\.h5.*'action'.*another file"):
        HDF5Source(path, layout=HDF5Layout(instruction="push"))


def test_images_of_a_file_that_changed_are_not_read(tmp_path: Path) -> None:
    path = _write(tmp_path / "a.h5", {"image": _images(2), "action": np.zeros((2, 2))})
    source = HDF5Source(path, layout=HDF5Layout(instruction="push"))
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(DataError, match=r"a\.h5 has changed since it was opened"):
        source.images(0, 0, 1)


@pytest.mark.parametrize("instruction", [3.5, b"\xff\xfe"])
def test_an_instruction_that_is_no_text_is_refused(tmp_path: Path, instruction: object) -> None:
    path = _write(tmp_path / "a.h5", {"image": _images(2), "action": np.zeros((2, 2)), "text": instruction})
    with pytest.raises(DataError, match=r"a\.h5"):
        HDF5Source(path, layout=HDF5Layout(instruction_key="text"))


def test_images_of_another_type_are_no_encoded_images(tmp_path: Path) -> None:
    path = _write(tmp_path / "a.h5", {"image": np.zeros((2, 50), np.float32), "action": np.zeros((2, 2))})
    with pytest.raises(DataError, match=r"a\.h5.*float32 \(2, 50\).*uint8"):
        HDF5Source(path, layout=HDF5Layout(instruction="push", encoded=True))
