"""A checkpoint to LeRobot's folder and back: the same network, and one line for what is no such folder."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from rt1 import Policy
from rt1.checkpoint import EXTRA_FILES, INFO_FILE, MODEL_FILE, save_checkpoint
from rt1.errors import CheckpointError, PolicyError, SaveError
from rt1.policy.lerobot import CHECKPOINT_KEY, CONFIG_FILE, LEROBOT_FILES, PREFIX, read_lerobot, write_lerobot

Change = Callable[[Path], object]


@pytest.fixture
def checkpoint(make_checkpoint: Callable[..., Path], tmp_path: Path) -> Path:
    return make_checkpoint(tmp_path / "checkpoint")


@pytest.fixture
def folder(checkpoint: Path, tmp_path: Path) -> Path:
    write_lerobot(checkpoint, tmp_path / "lerobot")
    return tmp_path / "lerobot"


def test_there_and_back_gives_the_same_checkpoint_and_the_same_20_actions(
    checkpoint: Path, folder: Path, tmp_path: Path
) -> None:
    back = read_lerobot(folder)
    save_checkpoint(tmp_path / "back", model=back.model, info=back.info)
    for name in (INFO_FILE, MODEL_FILE):
        assert (tmp_path / "back" / name).read_bytes() == (checkpoint / name).read_bytes()
    images = np.random.default_rng(1).integers(0, 256, (20, 40, 56, 3), dtype=np.uint8)
    text = np.random.default_rng(2).normal(size=8).astype(np.float32)
    before, after = (
        Policy.from_checkpoint(path).episode_logits(text, images) for path in (checkpoint, tmp_path / "back")
    )
    np.testing.assert_array_equal(before, after)


def test_the_folder_has_the_files_features_and_steps_of_lerobot(folder: Path) -> None:
    assert sorted(path.name for path in folder.iterdir()) == sorted(set(LEROBOT_FILES) - set(EXTRA_FILES))
    config = json.loads((folder / CONFIG_FILE).read_text())
    assert (config["type"], config["n_obs_steps"]) == ("rt1", 2)
    assert config["output_features"] == {"action": {"type": "ACTION", "shape": [4]}}
    assert list(config["input_features"]) == ["observation.image"]
    steps = [
        [step["registry_name"] for step in json.loads((folder / name).read_text())["steps"]]
        for name in LEROBOT_FILES[2:4]
    ]
    assert steps == [
        ["rename_observations_processor", "to_batch_processor", "device_processor", "normalizer_processor"],
        ["unnormalizer_processor", "device_processor"],
    ]


def _in_environment(checkpoint: Path, env: object) -> Path:
    """Say in which environment the data of a checkpoint were recorded."""
    description = json.loads((checkpoint / INFO_FILE).read_text())
    description["provenance"]["env"] = env
    (checkpoint / INFO_FILE).write_text(json.dumps(description))
    return checkpoint


@pytest.mark.parametrize(
    ("env", "hold", "crop"),
    [
        (
            {"suite": "metaworld", "settings": {"control_rate": 26.67, "crop": [0.12, 0.24, 0.75]}},
            3,
            [0.12, 0.24, 0.75],
        ),
        ({"env": "metaworld", "metaworld": {"control_rate": 80}}, 1, None),
        ({"suite": "elsewhere", "settings": {"crop": 5}}, 1, None),
        (None, 1, None),
    ],
)
def test_the_configuration_says_how_the_policy_acts_in_meta_world_of_lerobot(
    env: object, hold: int, crop: object, checkpoint: Path, tmp_path: Path
) -> None:
    write_lerobot(_in_environment(checkpoint, env), tmp_path / "out")
    config = json.loads((tmp_path / "out" / CONFIG_FILE).read_text())
    assert (config["env_hold"], config["env_crop"]) == (hold, crop)


def test_settings_that_meta_world_refuses_are_one_line(checkpoint: Path, tmp_path: Path) -> None:
    env = {"suite": "metaworld", "settings": {"crop": [0.5, 0.5, 0.9]}}
    with pytest.raises(ValueError, match=r"crop is \[0.5, 0.5, 0.9\]"):
        write_lerobot(_in_environment(checkpoint, env), tmp_path / "out")


def test_the_conversion_needs_no_lerobot(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lerobot", None)
    assert read_lerobot(folder).info.action_spec.size == 4


def test_a_folder_with_other_files_is_not_replaced(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    with pytest.raises(SaveError, match=r"notes\.txt"):
        write_lerobot(checkpoint, tmp_path)


def test_a_folder_in_the_checkpoint_and_a_key_of_no_camera_are_refused(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(SaveError, match="inner lies in"):
        write_lerobot(checkpoint, checkpoint / "inner")
    for key in ("", "action"):
        with pytest.raises(ValueError, match=f"image_key is '{key}'"):
            write_lerobot(checkpoint, tmp_path / "out", image_key=key)


@pytest.mark.parametrize("size", [5, "ab", [1], [0, 3], [2.5, 3]])
def test_an_image_size_that_is_none_is_one_line(size: object, checkpoint: Path, tmp_path: Path) -> None:
    description = json.loads((checkpoint / INFO_FILE).read_text())
    description["provenance"]["image_size"] = size
    (checkpoint / INFO_FILE).write_text(json.dumps(description))
    with pytest.raises(PolicyError, match=r"image_size .*must be a height and a width"):
        write_lerobot(checkpoint, tmp_path / "out")


def _config(**changes: object) -> Change:
    def change(folder: Path) -> None:
        path = folder / CONFIG_FILE
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return change


def _weights(change: Callable[[dict[str, np.ndarray]], object]) -> Change:
    def apply(folder: Path) -> None:
        tensors = load_file(folder / MODEL_FILE)
        change(tensors)
        save_file(tensors, folder / MODEL_FILE)

    return apply


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_config(type="act"), "'act'.*'rt1'"),
        (_config(**{CHECKPOINT_KEY: None}), "no object 'checkpoint'"),
        (_config(**{CHECKPOINT_KEY: {"format": 9}}), "format 9"),
        (_config(**{CHECKPOINT_KEY: {"format": 1}}), "lacks 'action_spec'"),
        (lambda folder: (folder / CONFIG_FILE).write_text("{"), "not JSON"),
        (lambda folder: (folder / CONFIG_FILE).unlink(), "No such file.*pretrained_model"),
        (lambda folder: (folder / MODEL_FILE).unlink(), "missing"),
        (lambda folder: (folder / MODEL_FILE).write_bytes(b"short"), "safetensors"),
        (_weights(lambda tensors: tensors.pop(PREFIX + "pixel_mean")), "lacks pixel_mean"),
        (_weights(lambda tensors: tensors[PREFIX + "pixel_mean"].fill(np.nan)), "pixel_mean.*finite"),
    ],
)
def test_another_policy_and_missing_or_damaged_files_are_one_line(folder: Path, change: Change, words: str) -> None:
    change(folder)
    with pytest.raises(CheckpointError, match=words) as caught:
        read_lerobot(folder)
    assert "\n" not in str(caught.value)
