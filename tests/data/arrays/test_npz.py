"""Folders of npz episodes: our own, V-D4RL's 64 pixels, 84 pixels with channels first, and damage."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rt1.actions import rt1_action_spec
from rt1.data.arrays import npz
from rt1.data.arrays.base import ArrayLayout
from rt1.data.arrays.npz import NpzSource
from rt1.data.sources.images import decode_image
from rt1.errors import DataError
from rt1.testing import check_source

LAYOUT = ArrayLayout(instruction_key="instruction", embedding_key="embedding")


def _episode(steps: int = 4, *, seed: int = 0, size: int = 8, **more: Any) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    return {
        "image": rng.integers(0, 256, (steps, size, size, 3), dtype=np.uint8),
        "action": rng.uniform(-1, 1, (steps, 3)),
        "instruction": f"sentence {seed}",
        "embedding": rng.normal(size=(steps, 5)).astype(np.float32),
        **more,
    }


def _write(folder: Path, *episodes: dict[str, Any]) -> Path:
    folder.mkdir(exist_ok=True)
    for number, episode in enumerate(episodes):
        np.savez_compressed(folder / f"episode_{number + 9}.npz", **episode)  # 9, 10: numbers in names count
    return folder


def test_episodes_come_back_as_they_were_saved(tmp_path: Path) -> None:
    saved = [_episode(4, seed=1), _episode(2, seed=2)]
    source = NpzSource(_write(tmp_path / "set", *saved), layout=LAYOUT)
    check_source(source)
    assert source.name == "set"
    assert source.lengths.tolist() == [4, 2]
    for number, episode in enumerate(saved):
        steps = len(episode["image"])
        assert source.instruction(number) == episode["instruction"]
        np.testing.assert_array_equal(source.actions(number, 0, steps), episode["action"].astype(np.float32))
        np.testing.assert_array_equal(source.images(number, 1, steps), episode["image"][1:])
        np.testing.assert_array_equal(decode_image(source.encoded_images(number, 0, 1)[0]), episode["image"][0])
        embedding = source.text_embedding(number)
        assert embedding is not None
        np.testing.assert_array_equal(embedding, episode["embedding"][0])
    assert source.images(0, 2, 2) == []


def test_episodes_that_fit_into_memory_are_unpacked_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = NpzSource(_write(tmp_path / "set", *(_episode(2, seed=seed) for seed in range(9))), layout=LAYOUT)
    unpacked: list[Path] = []

    def count(path: Path, key: str) -> Any:
        unpacked.append(path)
        return read(path, key)

    read = npz._array
    monkeypatch.setattr(npz, "_array", count)
    for episode in [*range(9), *range(9)]:
        source.images(episode, 0, 1)
    assert len(unpacked) == len(set(unpacked)) == 9


def test_bounds_come_from_the_data_unless_given(tmp_path: Path) -> None:
    saved = _episode(4)
    folder = _write(tmp_path / "set", saved)
    np.testing.assert_allclose(NpzSource(folder, layout=LAYOUT).action_spec.low, saved["action"].min(axis=0), rtol=1e-6)
    with pytest.raises(DataError, match=r"\[3\] dimensions.*11"):
        NpzSource(folder, layout=LAYOUT, action_spec=rt1_action_spec())


def _v_d4rl(steps: int) -> dict[str, Any]:
    """Make an episode as V-D4RL's 64-pixel files hold it (theirs have 501 rows)."""
    rng, flags = np.random.default_rng(0), np.zeros(steps, bool)
    action = rng.uniform(-1, 1, (steps, 6)).astype(np.float32)
    action[0] = 0
    return {
        "image": rng.integers(0, 256, (steps, 64, 64, 3), dtype=np.uint8),
        "action": action,
        "reward": np.zeros(steps, np.float32),
        "discount": np.ones(steps, np.float32),
        "is_first": flags,
        "is_last": flags,
        "is_terminal": flags,
    }


def test_v_d4rl_pairs_an_image_with_the_action_that_follows_it(tmp_path: Path) -> None:
    saved = _v_d4rl(5)
    source = NpzSource(
        _write(tmp_path / "walker_walk", saved), layout=ArrayLayout(instruction="walk", action_is_previous=True)
    )
    check_source(source)
    assert source.lengths.tolist() == [4]
    assert source.instruction(0) == "walk"
    assert source.text_embedding(0) is None
    np.testing.assert_array_equal(source.actions(0, 0, 4), saved["action"][1:])
    np.testing.assert_array_equal(source.images(0, 0, 4), saved["image"][:4])


def test_84_pixel_images_with_channels_first_are_turned(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (3, 3, 84, 84), dtype=np.uint8)
    folder = _write(tmp_path / "set", {"observation": images, "action": np.zeros((3, 2))})
    layout = ArrayLayout(image_key="observation", instruction="walk", channels_first=True)
    source = NpzSource(folder, layout=layout)
    check_source(source)
    np.testing.assert_array_equal(source.images(0, 0, 3), images.transpose(0, 2, 3, 1))
    with pytest.raises(DataError, match=r"'observation'.*uint8 \(3, 3, 84, 84\).*\(S, H, W, 3\)"):
        NpzSource(folder, layout=ArrayLayout(image_key="observation", instruction="walk"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"action": np.full((4, 3), np.nan)}, "the action of step 0 is .*finite"),
        ({"action": np.zeros((3, 3))}, "4 images and 3 actions"),
        ({"action": np.array([["x"]] * 4)}, "'action' is <U1"),
        ({"image": np.zeros((4, 8, 8, 9), np.uint8)}, r"'image' is uint8 \(4, 8, 8, 9\)"),
        ({"image": np.zeros((4, 8, 8, 3), np.float32)}, "'image' is float32"),
        ({"image": np.zeros((0, 8, 8, 3), np.uint8), "action": np.zeros((0, 3))}, "the episode has no steps"),
        ({"embedding": np.full(5, np.inf)}, "the text embedding is float64"),
    ],
)
def test_an_unusable_episode_is_named(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    folder = _write(tmp_path / "set", _episode(), {**_episode(), **change})
    with pytest.raises(DataError, match=rf"episode_10\.npz: .*{message}"):
        NpzSource(folder, layout=LAYOUT)


def test_pickled_objects_are_refused(tmp_path: Path) -> None:
    folder = _write(tmp_path / "set", {**_episode(), "action": np.array([{"a": 1}] * 4, dtype=object)})
    with pytest.raises(DataError, match=r"'action'.*pickled"):
        NpzSource(folder, layout=LAYOUT)


def test_a_missing_array_is_answered_with_the_closest(tmp_path: Path) -> None:
    folder = _write(tmp_path / "set", _episode())
    with pytest.raises(DataError, match=r"'actions'.*'action'"):
        NpzSource(folder, layout=ArrayLayout(action_keys=("actions",), instruction="x"))
    with pytest.raises(DataError, match=r"'imag'.*'image'"):
        NpzSource(folder, layout=ArrayLayout(image_key="imag", instruction="x"))


@pytest.mark.parametrize("keep", [0, 10, 400, 900])
def test_a_truncated_file_is_refused_by_name(tmp_path: Path, keep: int) -> None:
    folder = _write(tmp_path / "set", _episode())
    path = folder / "episode_9.npz"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(DataError, match=r"episode_9\.npz: 'image' is damaged"):
        NpzSource(folder, layout=LAYOUT)


def test_a_flipped_bit_in_the_images_is_noticed_when_they_are_read(tmp_path: Path) -> None:
    folder = _write(tmp_path / "set", _episode(size=32))
    path = folder / "episode_9.npz"
    data = bytearray(path.read_bytes())
    data[5000] ^= 0x10
    path.write_bytes(data)
    source = NpzSource(folder, layout=LAYOUT)
    with pytest.raises(DataError, match=r"episode_9\.npz: 'image' is damaged"):
        source.images(0, 0, 1)


def test_a_folder_without_episodes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"has no file ending in \.npz"):
        NpzSource(tmp_path, layout=LAYOUT)
    with pytest.raises(DataError, match="is not a folder"):
        NpzSource(tmp_path / "nowhere", layout=LAYOUT)


def test_steps_outside_an_episode_are_refused(tmp_path: Path) -> None:
    source = NpzSource(_write(tmp_path / "set", _episode()), layout=LAYOUT)
    with pytest.raises(IndexError, match="of episode 0, which has 4 steps"):
        source.images(0, 1, 5)
    with pytest.raises(IndexError, match=r"It has the episodes 0\.\.0"):
        source.instruction(1)


def _write_member(path: Path, name: str, content: bytes) -> None:
    with zipfile.ZipFile(path) as archive:
        members = {member: archive.read(member) for member in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for member, old in members.items():
            archive.writestr(member, content if member == name else old)


@pytest.mark.parametrize("shape", [(2, 3), (4, 30000000000)])
@pytest.mark.parametrize("key", ["action", "image"])
def test_a_header_that_does_not_fit_the_values_is_refused(tmp_path: Path, shape: tuple[int, int], key: str) -> None:
    path = _write(tmp_path / "set", _episode()) / "episode_9.npz"
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f8", "fortran_order": False, "shape": shape})
    _write_member(path, f"{key}.npy", header.getvalue() + bytes(96))
    with pytest.raises(DataError, match=rf"episode_9\.npz.*'{key}'.*header.*96 bytes"):
        NpzSource(tmp_path / "set", layout=LAYOUT)


def test_images_of_a_file_that_changed_are_not_read(tmp_path: Path) -> None:
    folder = _write(tmp_path / "set", _episode(4))
    source = NpzSource(folder, layout=LAYOUT)
    _write(folder, _episode(3, seed=1))
    with pytest.raises(DataError, match=r"episode_9\.npz.*changed"):
        source.images(0, 0, 1)
